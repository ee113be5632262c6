# nfvs: `make` alone says what there is.

CARGO ?= cargo
shell_scripts := netns-lab/lab packaging/install-deps .ci/run $(wildcard benches/run)

.PHONY: help build demo test lint fmt bench clean-lab need-root

help:
	@echo 'make build      build the release binary, target/release/nfvs'
	@echo 'make demo       bring up a lab, balance 300 requests over three servers, IPv4 then IPv6, clean up (root)'
	@echo 'make test       lint, then all tests, those in network namespaces included (root)'
	@echo 'make bench      measure against other balancers and write docs/benchmarks.md (root)'
	@echo 'make lint       formatting, clippy, documentation and shell scripts, no tests'
	@echo 'make fmt        format the sources'
	@echo 'make clean-lab  end and remove every lab that is up (root)'
	@echo
	@echo 'demo, test and bench first install the Debian packages they need (packaging/install-deps).'
	@echo 'All but those packages is Rust $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later: https://rustup.rs'

build:
	@packaging/install-deps build
	$(CARGO) build --release --locked

demo: need-root
	@packaging/install-deps build lab
	$(CARGO) build --release --locked
	netns-lab/lab demo

# The runner comes last, so that its summary closes the output.
test: need-root
	@packaging/install-deps build lab
	$(MAKE) --no-print-directory lint
	$(CARGO) test --workspace --locked --doc
ifneq ($(shell command -v cargo-nextest),)
	$(CARGO) nextest run --workspace --locked
else
	$(CARGO) test --workspace --locked --no-fail-fast --lib --bins --tests
endif

bench: need-root
	@packaging/install-deps
	$(CARGO) build --release --locked
	benches/run

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --locked --no-deps
	shellcheck -x -a $(shell_scripts)
	shellcheck netns-lab/scenarios/*

fmt:
	$(CARGO) fmt --all

clean-lab: need-root
	netns-lab/lab down --all

need-root:
	@test "$$(id -u)" = 0 || { echo 'make: this needs root, for network namespaces and nftables: run it with sudo' >&2; exit 1; }
