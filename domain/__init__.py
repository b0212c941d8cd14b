"""What a clinic's appointment book means: events, states, decisions. Pure; the time and new ids come in as arguments."""
