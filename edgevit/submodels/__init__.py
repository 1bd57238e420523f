"""Programs that hold smaller ones: made, trained, and taken out again."""
