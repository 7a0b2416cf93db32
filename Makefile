# stablerep: captions in, a served vision encoder out. `make` lists the targets.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || echo python3)
RECIPE ?= quickstart
SET ?=
STORE ?=
ROLES ?=
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE
SETS = $(foreach pair,$(SET),--set $(pair))
RUN = $(BIN)/stablerep run --recipe $(RECIPE) $(SETS) $(if $(STORE),--store $(STORE))

help:  ## list the targets
	@awk -F ':.*## ' '/^##@/ {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ setup
setup: .venv/ready  ## install everything, hash-locked, into .venv
.venv/ready: requirements/uv.lock requirements/dev.lock pyproject.toml
	test -x $(BIN)/uv || $(PYTHON) -m venv --clear .venv && $(BIN)/python -m pip install -q --require-hashes -r requirements/uv.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes --compile-bytecode -r requirements/dev.lock
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e . && touch $@

##@ run
run: .venv/ready  ## the whole pipeline on this machine: RECIPE=quickstart SET="pretrain.num_steps=600" STORE=URI
	@$(RUN)
serve: .venv/ready  ## serve the promoted encoder in the foreground
	@$(BIN)/stablerep serve --recipe $(RECIPE) $(SETS) --store $(or $(STORE),build/run/store)
stop: .venv/ready  ## stop the endpoint that `make run` left running
	@$(BIN)/stablerep stop --recipe $(RECIPE) $(SETS) --store $(or $(STORE),build/run/store)
monitor: .venv/ready  ## a Prometheus beside `make run`, on loopback, with the cluster's rules
	@$(BIN)/python -m manifests.monitoring.monitor $(if $(STORE),--store $(STORE))

run-docker: .venv/ready  ## the pipeline in containers of the images (make images ROLES=all): RECIPE=smoke
	@$(BIN)/python -m pipelines.run_docker --recipe $(if $(filter command line,$(origin RECIPE)),$(RECIPE),smoke) $(SETS) $(if $(STORE),--store $(STORE))

##@ check
check: .venv/ready  ## lint, types, drift of the compiled pipelines, contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest tests/contracts
test: .venv/ready  ## all tests, in two processes; installs prometheus and chromium where they are missing
	$(BIN)/python tests/tools/install.py
	$(BIN)/python -m pytest -n 2 --dist loadfile

mutants: .venv/ready  ## put one fault after another into a copy of the product; tests must notice each: NAMES="losses launch"
	$(BIN)/python tests/mutants/run.py $(NAMES)
chaos: .venv/ready  ## kill -9 at 100 random moments over four lanes of generate; nothing may be lost, doubled or cut short
	$(BIN)/python tests/plugins/chaos.py --kills 100
bench: .venv/ready  ## every CPU benchmark with its ratio and target; results in benchmarks/results/
	$(BIN)/python benchmarks/all.py
bench-generation: .venv/ready  ## groups kept a second, noise, a lane against the model alone and one call per image
	$(BIN)/python benchmarks/generation.py
bench-endpoint: .venv/ready  ## the endpoint against the plain KServe way, and 10,000 hostile requests
	$(BIN)/python benchmarks/endpoint.py

paper-trends: .venv/ready  ## the paper's comparisons on three generators: docs/results.md (hours on a busy machine; goes on where it was)
	@$(BIN)/stablerep run --recipe paper_trends

##@ build
compile: .venv/ready  ## compile the pipelines for Kubeflow, and pin images in manifests, from images/images.lock
	$(BIN)/python -m pipelines.compile && $(BIN)/python -m manifests.render images
lock: .venv/ready  ## resolve what is to be installed into requirements/*.lock and images/*.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --generate-hashes --python-version 3.11 --no-header --no-emit-index-url -q -o requirements/dev.lock
	$(BIN)/python images/build.py lock
manifests: .venv/ready .venv/checkov/ready  ## render every overlay into build/manifests/ and check it
	$(BIN)/python -m manifests.render
.venv/checkov/ready: requirements/checkov.lock .venv/ready
	$(BIN)/uv venv -q --clear --python $(BIN)/python .venv/checkov
	$(BIN)/uv pip install -q --python .venv/checkov/bin/python --require-hashes -r $< && touch $@
images: .venv/ready  ## build container images: runtime launch features, or ROLES="generate train serve", or ROLES=all
	$(BIN)/python images/build.py build $(ROLES) $(if $(BASE),--base $(BASE)) $(if $(CUDA_BASE),--cuda-base $(CUDA_BASE))
push: .venv/ready  ## push them and write images/images.lock: REGISTRY=host/prefix ROLES=all
	$(BIN)/python images/build.py push $(or $(REGISTRY),$(error pass REGISTRY=host/prefix)) $(ROLES)
clean:  ## remove results, caches and the environment
	rm -rf build .venv .pytest_cache .ruff_cache *.egg-info

.PHONY: help setup run serve stop monitor run-docker check test mutants chaos bench bench-generation bench-endpoint paper-trends compile lock manifests images push clean
