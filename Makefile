.PHONY: demo test coverage lint docs

# A fresh machine needs Python 3.11 and nothing else. The lock keeps every version exact.
.venv/.ready: pyproject.toml constraints.txt
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/.ready
	.venv/bin/neuromix demo

test: .venv/.ready
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadfile

coverage: .venv/.ready
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --dist loadfile --cov=neuromix.augment --cov=neuromix.classifiers --cov=neuromix.experiments --cov-report=term:skip-covered

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
# An import hook leads an editable install to the folders; mypy, which follows none, gets links.
	mkdir -p build/mypy/neuromix && ln -sfn $(CURDIR)/augment $(CURDIR)/classifiers $(CURDIR)/experiments build/mypy/neuromix
	.venv/bin/mypy

docs: .venv/.ready
	.venv/bin/python docs/reference.py docs/api
