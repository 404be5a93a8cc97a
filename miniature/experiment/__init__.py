"""The experiment: what each part of the method adds, measured on people and captions that no training saw."""
