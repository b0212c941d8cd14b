"""The public table of medical appointments that were or were not kept, turned into a book's own history."""
