"""`python -m lora_edu lab` is `lora-edu lab`: the one arrow from the library up to the course, for whoever types it."""

from lora_course.__main__ import main

if __name__ == "__main__":
    main()
