# Every target runs on a fresh machine with Go; interop-setup installs the rest.
GO            ?= go
export CGO_ENABLED ?= 0
GOLANGCI      := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT        ?= $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS       := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
FUZZTIME      ?= 20s
FUZZPROCS     ?= 2
TOOLS         := $(CURDIR)/bin
FACTS         := $(CURDIR)/bin/chaos.facts

.PHONY: build test race lint fuzz mutants bench chaos golden image interop interop-setup original original-setup

build: ## the program, in bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/bridge ./cmd/bridge

test: ## what the README names
	$(GO) test ./...

race: ## the same under the race detector, shuffled (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -shuffle=on ./...

$(TOOLS)/golangci-lint:
	GOBIN=$(TOOLS) $(GO) install $(GOLANGCI)

lint: $(TOOLS)/golangci-lint ## go vet and golangci-lint
	$(GO) vet ./...
	$(TOOLS)/golangci-lint run ./...

fuzz: ## every fuzz target for FUZZTIME on FUZZPROCS cores, then a list of what ran
	@ran=; failed=0; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; end=passed; \
	    $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s -parallel $(FUZZPROCS) $$pkg || { end=FAILED; failed=1; }; \
	    ran="$$ran$$end $$pkg $$f\n"; \
	  done; done; printf "\nFor $(FUZZTIME) each:\n$$ran"; exit $$failed

mutants: ## each guard against a race taken out in a copy; its test must fail (needs a C compiler)
	$(GO) run ./tests/races/mutants

bench: ## the table that the README quotes; a quarter of an hour, most of it for TestBenchSync
	$(GO) test -run '^$$' -bench . -benchmem ./timesync ./resonate/... ./entities ./mqtt
	$(GO) test -run '^TestBench' -count=1 -timeout 30m -v ./tests/bench -bench-report -bench-sync 10m

chaos: ## the long part of tests/chaos and of the model, which write tests/chaos/REPORT.md (needs a C compiler)
	@mkdir -p bin; rm -f $(FACTS); failed=0; \
	GOEXPERIMENT=goroutineleakprofile CGO_ENABLED=1 $(GO) test -race -count=1 -timeout 30m -parallel 6 ./tests/chaos -chaos -facts $(FACTS) || failed=1; \
	$(GO) test -count=1 -timeout 30m ./tests/bench -run '^TestBenchCycles$$' -bench-report -facts $(FACTS) || failed=1; \
	$(GO) test -count=1 -timeout 30m ./tests/races -run '^TestModel$$' -steps 100000 -facts $(FACTS) || failed=1; \
	$(GO) run ./tests/chaos/report -measured $(FACTS) -found tests/chaos/FOUND.md -commit $(COMMIT) -o tests/chaos/REPORT.md || failed=1; \
	exit $$failed

golden: ## rewrite golden files; review them as code
	$(GO) test ./entities ./resonate/internal/dialect -update

image: ## the container image with what is at hand, and what runs inside it
	docker/build.sh

interop-setup: ## install the real peers (root on Debian)
	tests/interop/setup.sh

interop: ## drive the real peers; a missing one is loud, a failing one fails
	$(GO) test -count=1 -timeout 30m -v ./tests/interop -interop

original-setup: ## install the original and its kin, to be compared with (root on Debian)
	tests/interop/setup.sh original

original: ## the original and ours side by side, about ten minutes; writes tests/races/original/RESULTS.md
	$(GO) test -count=1 -timeout 20m -v ./tests/races/original -run '^TestOriginal$$' -original
