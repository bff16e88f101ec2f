# One command each for what a person does with a checkout; `make help` lists them.
# Go is all that has to be there. What the tests need besides, they install (see test/run).

GO      ?= go
RUN      = ./.tools/bin/run
BINARY   = ./bin/taskfleet

.DEFAULT_GOAL := help

.PHONY: up build image provider test check bench postgres rabbitmq generate clean help

up: build ## build, start a whole platform on 127.0.0.1:8080 and run examples/self on it; Ctrl-C stops it
	@exec $(BINARY) up

build: ## build ./bin/taskfleet
	@CGO_ENABLED=0 $(GO) build -trimpath -o $(BINARY) ./cmd/taskfleet

image: ## build the container image in ./bin/image, without Docker; IMAGE="--push REF --sign-key FILE" goes on to it
	@$(GO) run ./packaging/image $(IMAGE)

provider: ## build ./bin/terraform-provider-taskfleet
	@CGO_ENABLED=0 $(GO) build -trimpath -o ./bin/terraform-provider-taskfleet ./cmd/terraform-provider-taskfleet

test: $(RUN) ## everything: formatting, vet, all tests on SQLite and PostgreSQL, race detector, official clients, crashes, EC2
	@exec $(RUN) test

check: $(RUN) ## in a few minutes: formatting, vet, and the tests on SQLite alone
	@exec $(RUN) check

bench: $(RUN) ## rates, latencies and CPU of the queue on SQLite and on PostgreSQL
	@exec $(RUN) bench

postgres: $(RUN) ## a PostgreSQL for tests that you run by hand, until Ctrl-C
	@exec $(RUN) postgres

rabbitmq: $(RUN) ## a RabbitMQ for tests that you run by hand, until Ctrl-C
	@exec $(RUN) rabbitmq

generate: ## write the references and the Go client anew from the declarations
	@$(GO) generate ./references && $(GO) generate ./client

clean: ## remove what was built and installed here; ./.taskfleet, the platform's data, stays
	rm -rf ./bin ./.tools ./test/official/js/node_modules

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

# Always asked for, since only Go knows whether its sources have changed; it is quick when they have not.
.PHONY: $(RUN)
$(RUN):
	@$(GO) build -o $@ ./test/run
