"""HTTP plumbing shared by both APIs: problems, tokens, cursors, positions, limits, health. It knows no feature."""
