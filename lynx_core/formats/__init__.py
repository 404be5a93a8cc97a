"""Every checkpoint layout of Lynx, read and written as one adapter."""
