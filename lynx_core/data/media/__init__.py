"""Photos and clips: what they are, and their pixels."""
