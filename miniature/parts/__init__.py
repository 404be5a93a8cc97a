"""A miniature of every part, trained on the drawn world and written in the real file layouts."""
