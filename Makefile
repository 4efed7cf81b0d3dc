# Every target is a thin name for a command; what it does is in the script it calls.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH)

.PHONY: help build fmt lint test test-unit test-cluster test-e2e sim generate check images cluster-up cluster-down demo demo-chaos demo-down dev-up dev-down bench clean

help: ## print this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  %-14s %s\n", $$1, $$2}'

build: ## compile operator, API and runner for this machine
	cargo build --locked --bins

fmt: ## format the code
	cargo fmt

lint: ## clippy on everything, warnings are errors
	cargo clippy --locked --all-targets -- -D warnings

test: ## every test, with all that it needs: cluster, Postgres, images, real node (root on Linux)
	@tests/cluster/test all

test-unit: ## tests that need nothing but the code
	@tests/cluster/test unit

test-cluster: ## tests against Postgres and a control plane with simulated nodes (no root needed)
	@tests/cluster/test cluster

test-e2e: ## tests with a real node (root on Linux)
	@tests/cluster/test e2e

sim: ## the simulation over any seeds (SEEDS=n FROM=k); SIM_TRACE=1 prints what happens
	@SEEDS=$(or $(SEEDS),2000) FROM=$(or $(FROM),0) cargo test --locked --test sim every -- --nocapture

generate: ## write what is generated: crds/, docs/openapi.json, docs/reference/, the chart's copy, manifests/install.yaml
	@tests/cluster/generate

check: ## what a change must pass: format, clippy, generated files, licences, chart, tests
	@tests/cluster/check

images: ## build the images with docker, podman or buildah (IMAGE_PREFIX, IMAGE_TAG)
	@images/build

cluster-up: ## a Kubernetes on this machine: control plane, 3 simulated nodes, a real node (root on Linux)
	@tests/cluster/cluster up
	@tests/cluster/cluster fake-nodes 3
	@tests/cluster/cluster node
	@tests/cluster/cluster env

cluster-down: ## remove it, with everything it started
	@tests/cluster/cluster down

demo: ## from nothing to six Tasks on a real cluster, and what became of them (root on Linux)
	@tests/demo/demo up

demo-chaos: ## forty scripted Tasks that meet every failure, everything stopped in the middle, the operator killed twice
	@tests/demo/demo chaos

demo-down: ## remove the demo
	@tests/demo/demo down

dev-up: build ## control plane, Postgres, operator and API as processes of this machine; writes target/dev/env
	@tests/cluster/dev up

dev-down: ## stop them
	@tests/cluster/dev down

bench: ## what everything costs; writes target/bench/summary.json (PART=dispatch|loops|idle|api|overhead: one part of it)
	@tests/bench/bench $(PART)

clean: ## remove what was built here
	rm -rf target
