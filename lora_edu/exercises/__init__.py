"""The exercises of each notebook: reference, named misconceptions and cases. `lora_edu.grading` runs them."""
