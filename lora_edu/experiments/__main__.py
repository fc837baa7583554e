"""python -m lora_edu.experiments NAME"""

from lora_edu.experiments.runs import main

if __name__ == "__main__":
    main()
