"""What a compliance officer asks of the event log: inquiries, replays, exports with proofs, reports."""
