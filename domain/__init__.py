"""What a clinic's appointment book means: events, states, decisions. Pure; time and new ids come in as arguments."""
