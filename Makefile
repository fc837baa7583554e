# Every target sets up what it needs by itself. PYTHON= chooses the interpreter (3.11 or newer) for a new .venv.
PYTHON ?= python3
PORT ?=
ARGS ?=
COHORT ?= formative
COURSE = $(PYTHON) -m lora_edu
RUN = .venv/bin/python
# One run over notebooks and tests: two processes with one thread each, the longest notebook first. Freed memory stays
# with its process: asking Linux for it again, page by page, took 4% of the time.
MEMORY = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000
TESTING = OMP_NUM_THREADS=1 LORA_EDU_DEVICE=cpu LORA_EDU_SIZE=laptop $(MEMORY)
PARALLEL = -n 2 --dist loadfile --no-loadscope-reorder
NBVAL = --nbval --nbval-current-env --nbval-cell-timeout=300
QUICK = tests/test_house.py $(addprefix tests/notebooks/test_,in_package.py notebooks.py) \
	$(addprefix tests/lora_edu/test_,public.py lora.py lora_numpy.py gpt.py quantization.py qlora.py training.py)
LONGEST = notebooks/09_qlora_gpt.ipynb notebooks/12_real_model.ipynb
NOTEBOOKS = $(LONGEST) $(filter-out $(LONGEST),$(wildcard notebooks/*.ipynb))

.PHONY: help python setup lab test test-all newest fetch qlora gpu doctor assignments check format notebooks book clients browser bench bench-gpu torture lock release clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

python:
	@command -v $(PYTHON) >/dev/null || { echo "'$(PYTHON)' was not found: install Python 3.11 or newer, or name one: make lab PYTHON=python3.12"; exit 1; }

setup: python  ## create .venv, install the course, fetch the three texts
	@$(COURSE) setup

lab: python  ## open your copy of the course in JupyterLab (PORT=8888, ARGS="--fresh --no-browser" pass through)
	@$(COURSE) lab $(if $(PORT),--port $(PORT)) $(ARGS)

test: python  ## unit tests and every notebook (about 9 minutes on 2 cores, installation included); ARGS="tests/lora_edu/test_lora.py" runs one
	@$(COURSE) setup --extra test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(TESTING) $(RUN) -m pytest -m "not slow" $(if $(ARGS),$(ARGS),$(PARALLEL) $(NBVAL) $(NOTEBOOKS) tests)

# What takes longer and why it may wait, beside the quick test that sees the same mistakes:
#   whole classes graded, every assignment through nbgrader     one assignment; the judge and the boxes on their own
#   all wrong answers of 2.5, 4.4, 4.5, most train a model      those of the other 14 exercises, by the same code
#   kills at random moments                                     one kill at each point that counts
#   compilation, more methods in two processes                  one backend; one method in two processes
#   the solutions, mends and dodges of 18, a training each      those that train nothing, by the same judges
#   peaks of memory with weights in bfloat16                    those in float32, and with autocast
#   a stored number computed again (09's draw)                  the record's checksum; the same code on made-up input
#   a real model's words in six programs                        the logits of a tiny one in four of them
#   a browser prints a page                                     what the page holds
test-all: test  ## the same, and the tests that take longer
	$(TESTING) $(RUN) -m pytest -m slow $(ARGS)

newest: python  ## the tests with the newest release of every library, in an environment of its own: .venv-newest
	@$(COURSE) setup --extra test --newest
	$(TESTING) .venv-newest/bin/python -m pytest -m "not slow" $(if $(ARGS),$(ARGS),$(PARALLEL) $(NBVAL) $(NOTEBOOKS) tests)

fetch: python  ## download everything the course ever uses, for a class that will be offline
	@$(COURSE) fetch

qlora: python  ## run the QLoRA notebook without a browser, into build/
	@$(COURSE) qlora

gpu: python  ## the same on an NVIDIA GPU at its larger size, pre-training included
	@$(COURSE) gpu $(ARGS)

doctor: python  ## what a teacher asks for when something does not work
	@$(COURSE) doctor

assignments: python  ## student versions and solutions, with numbers of your own: COHORT=2026a (ARGS='--due "2026-03-06 18:00"')
	@$(COURSE) setup --extra classroom
	$(RUN) -m classroom release --cohort "$(COHORT)" $(ARGS)

check: python  ## the quick half, under a minute: style, types, and the tests of the core
	@$(COURSE) setup --extra test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check --select E501 --line-length 88 notebooks/*.ipynb --config "extend-exclude=[]"
	$(RUN) -m mypy
	$(TESTING) $(RUN) -m pytest $(PARALLEL) $(QUICK)

format: python  ## mend what the style checks can mend
	@$(COURSE) setup --extra test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

notebooks: python  ## run every notebook in a fresh kernel and store its outputs (ARGS=notebooks/05_blocks.ipynb: one)
	@$(COURSE) setup --extra test
	LORA_EDU_DEVICE=cpu LORA_EDU_SIZE=laptop $(RUN) -m lora_course.setup.report --in-place $(if $(ARGS),$(ARGS),notebooks/*.ipynb)

book: python  ## the course as a static site, to read without installing: build/book/index.html
	@$(COURSE) setup --extra book
	$(RUN) -m book $(ARGS)

clients: python  ## one adapter in six programs, llama.cpp among them: do they say the same bytes? (fetches 0.2 GB; minutes)
	@$(COURSE) setup --extra test,clients
	LORA_EDU_CLIENTS=1 $(TESTING) $(RUN) -m pytest tests/lora_edu/test_clients.py $(ARGS)

browser: python  ## in your Chromium: the book, its model beside torch, every notebook in JupyterLab (ARGS="01 06"); build/browser.md
	@$(COURSE) setup --extra test,bench,book
	$(RUN) -m book
	$(RUN) -m book.browse
	LORA_EDU_BROWSER=1 $(TESTING) $(RUN) -m pytest tests/lora_course/alive/test_alive.py
	$(RUN) benchmarks/browser.py $(ARGS)

bench: python  ## one page: what is measured, each beside its peer, with goal and verdict (minutes; ARGS=--notebooks, more); build/bench.json
	@$(COURSE) setup --extra test,bench,book
	$(RUN) benchmarks/page.py $(ARGS)

bench-gpu: python  ## QLoRA on an NVIDIA GPU beside PEFT + bitsandbytes (ARGS="--device cpu --tiny" rehearses)
	@$(COURSE) setup --extra test
	$(RUN) benchmarks/gpu.py $(ARGS)

torture: python  ## kill training runs at 100 random moments: each must end with the same bits (minutes; ARGS="--kills 10")
	@$(COURSE) setup
	$(RUN) benchmarks/torture.py $(ARGS)

lock: python  ## the tested versions anew, for all extras, systems and Pythons (ARGS=--upgrade: the newest that fit)
	@$(COURSE) setup --extra test
	$(RUN) .ci/lock.py $(ARGS)

release: python  ## what a person needs to tag a version: the wheel, tried in an empty environment, and its notes, in dist/
	@$(COURSE) setup --extra test
	$(RUN) .ci/release.py

clean:  ## remove .venv, build and caches (the downloaded texts stay)
	rm -rf .venv .venv-newest build dist .pytest_cache .ruff_cache .hypothesis
