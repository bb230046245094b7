# `make lab` opens the lessons; `make test` runs all that CI runs. `make PY=python3.12 lab` chooses another Python (3.10 to 3.13).
PY ?= python3
BIN := $(CURDIR)/.venv/bin
NOTEBOOKS := $(wildcard index.ipynb nbs/*.ipynb nbs/tutorials/*.ipynb)
export PATH := $(BIN):$(PATH)

.PHONY: setup lab test sync notebooks docs data bench-default bench-layer bench-fashion bench-compare bench-full-size bench-gallery bench-diverse bench-interventions bench-collide bench-ingredients bench-confound bench-report bench-edit

setup: .venv/.done

.venv/.done: settings.ini setup.py
	@$(PY) tools/python.py
	$(PY) -m venv .venv || { echo "no virtual environment: on Debian, apt-get install python3-venv, then make setup again"; exit 1; }
	$(BIN)/pip install -e '.[dev]'
	touch $@

lab: setup
	jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) index.ipynb

# The docs run every notebook in a kernel of its own, and come before pytest, because the browser tests visit the pages
test: setup
	@tools/step.sh "system packages" tools/system.sh
	@tools/step.sh "sync gate" python tools/sync.py --check
	@tools/step.sh "notebooks and docs" $(MAKE) --no-print-directory docs
	@tools/step.sh "tests" env OMP_NUM_THREADS=1 python -m pytest tests -n 2 --dist loadfile -rs --durations=8

# notebooks -> library and README; clean and strip the notebooks
sync: setup
	python tools/sync.py

# run every notebook in place, in a kernel of its own, and keep the outputs
notebooks: setup
	python tools/run.py $(NOTEBOOKS)

docs: setup
	@tools/docs-assets.sh
	OMP_NUM_THREADS=1 python tools/docs.py

data: setup
	@tools/data.sh

bench-default: setup
	python bench/default.py

bench-layer: setup
	python bench/layer.py

bench-fashion: setup
	python bench/fashion.py

bench-compare: setup
	python bench/compare.py

bench-full-size: setup
	python bench/full_size.py

bench-gallery: setup
	python bench/gallery.py

bench-diverse: setup
	python bench/diverse.py

bench-interventions: setup
	python bench/interventions.py

bench-collide: setup
	python bench/collide.py

bench-ingredients: setup
	python bench/ingredients.py

bench-confound: setup
	python bench/confound.py

bench-report: setup
	python bench/report.py

bench-edit: setup
	python bench/edit.py
