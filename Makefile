# Everything a person does here, CI does with the same commands. See CONTRIBUTING.md.

CARGO ?= cargo
# Tests, demo and bench run the release binaries, so that everything is compiled once.
PROFILE := --release
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin:$(HOME)/.cargo/bin

.PHONY: help setup build install faults demo apps test soak bench bench-directory lint clean

help:
	@echo 'make setup   packages, CRIU and a look at the kernel (root)'
	@echo 'make build   release binaries into target/release'
	@echo 'make demo    three hosts on this machine; programs move between them while they talk'
	@echo 'make apps    real programs of Debian while they move, for the table in the README (root; installs them)'
	@echo 'make test    every test (root)'
	@echo 'make soak    random faults for hours while every byte is checked: MINUTES=60 SEED=… (root)'
	@echo 'make bench   throughput, delay, memory and blackout against plain TCP and plain CRIU (root)'
	@echo 'make bench-directory  the directory'\''s DNS beside stock hickory, with 100,000 capsules (root)'
	@echo 'make install what `make build` made, with units and man pages: PREFIX=/usr/local SYSCONFDIR=/etc DESTDIR= (root)'
	@echo 'make lint    format, clippy and documentation, warnings are errors'
	@echo 'make clean   what was built, and what killed tests left behind'

setup:
	@scripts/setup

build:
	$(CARGO) build $(PROFILE) --workspace

# Programs, units, man pages, completions and settings; what there is of settings stays. Builds nothing.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
install:
	DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' scripts/install

# The sidecar with failures that tests switch on: only its own crate is compiled once more.
faults: build
	scripts/build-faults

demo: setup build
	target/release/demo

# Its own part of setup: no test needs these packages.
apps: build
	@scripts/setup apps
	target/release/apps --write README.md

test: setup build faults
	$(CARGO) nextest run $(PROFILE) --workspace

soak: setup build
	target/release/soak --minutes $(or $(MINUTES),60) $(addprefix --seed ,$(SEED))

bench: setup build
	target/release/bench

bench-directory: setup build
	$(CARGO) build $(PROFILE) -p capsule-directory --example bench-directory
	target/release/examples/bench-directory

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc $(PROFILE) --no-deps --workspace
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check bans licenses sources; fi

clean:
	@if [ -x target/release/testkit-sweep ]; then target/release/testkit-sweep --dead; fi
	$(CARGO) clean
