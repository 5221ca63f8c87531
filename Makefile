# Every target runs on a fresh machine with Go; interop-setup installs the rest.
GO            ?= go
export CGO_ENABLED ?= 0
GOLANGCI      := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT        ?= $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS       := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
FUZZTIME      ?= 20s
TOOLS         := $(CURDIR)/bin

.PHONY: build test race lint fuzz bench golden image interop interop-setup

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

fuzz: ## every fuzz target for FUZZTIME
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

bench: ## the table that the README quotes
	$(GO) test -run '^$$' -bench . -benchmem ./timesync ./resonate/... ./entities ./mqtt
	$(GO) test -run '^TestBench' -count=1 -v ./tests/bench -bench-report

golden: ## rewrite golden files; review them as code
	$(GO) test ./entities ./resonate/internal/dialect -update

image: ## the container image with what is at hand, and what runs inside it
	docker/build.sh

interop-setup: ## install the real peers (root on Debian)
	tests/interop/setup.sh

interop: ## drive the real peers; a missing one is loud, a failing one fails
	$(GO) test -count=1 -timeout 30m -v ./tests/interop -interop
