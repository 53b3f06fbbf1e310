# Rules
# =====
#
# make build      - build everything, tests too (release, testable: one configuration, docs/decisions/0001)
# make test       - build, then all tests of the package
# make quickstart - from nothing to an answer on this machine: scripts/quickstart
# make e2e        - end to end: the built programs, on this machine
# make nettest    - what coord promises about networks, in network namespaces; needs root
# make soak       - the same for hours: many kills, many seeds
# make lint       - format rules, shell scripts
# make format     - rewrite the sources as the format rules want them
# make floors     - prove that dependencies point down only; lines of code per floor
# make docs       - write docs/reference/ again from the programs
# make worker     - the static programs that are pushed to hosts, into artifacts/workers/
# make ci         - all of it, as continuous integration does: scripts/test

FLAGS := -c release -Xswiftc -enable-testing
SOURCES := Sources Tests Benchmarks Package.swift

.PHONY: build test quickstart e2e nettest soak lint format floors docs worker ci

build:
	swift build $(FLAGS) --build-tests

test: build
	swift test $(FLAGS) --skip-build

quickstart:
	scripts/quickstart

e2e: build worker
	scripts/e2e

nettest: build worker
	scripts/nettest

soak: build worker
	scripts/soak

lint:
	swift format lint --strict -r -p $(SOURCES)
	grep -lE '^#!.*\b(ba)?sh$$' scripts/* .ci/run | xargs shellcheck

format:
	swift format -i -r -p $(SOURCES)

floors:
	python3 scripts/check-floors.py

docs: build
	.build/release/coord docs cluster > docs/reference/cluster.yaml

worker:
	scripts/build-worker

ci:
	scripts/test
