"""Mini Lynx: a small world of drawn people, and every part of Lynx trained on it."""
