"""From folders of photos and footage to a manifest of (reference, target) pairs."""
