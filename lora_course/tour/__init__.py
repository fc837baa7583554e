"""Behind the tour, LoRA and QLoRA in two hours: it stands on the pages 00 to 09 and adds two pictures."""
