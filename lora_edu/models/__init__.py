"""Models ready for use: the shipped base and how it was trained, models of others, and the fine-tuning command."""
