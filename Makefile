# nfvs: `make` alone says what there is.

CARGO ?= cargo
# How long each target of `make fuzz` runs.
FUZZ_SECONDS ?= 600

.PHONY: help build deb demo test vm-full lint fuzz bench clean need-root

help:
	@echo 'make build   build the release binary, target/release/nfvs'
	@echo 'make deb     build the Debian package, target/debian/nfvs_VERSION_ARCH.deb'
	@echo 'make demo    bring up a lab, balance 300 requests over three servers, IPv4 then IPv6, clean up (root)'
	@echo 'make test    lint, then all tests, those in network namespaces and in virtual machines included (root)'
	@echo 'make vm-full the long tests in a virtual machine, with a report in docs/reports (root)'
	@echo 'make lint    formatting, clippy, documentation and shell scripts, no tests'
	@echo 'make fuzz    feed damaged input to each target of fuzz/ for $(FUZZ_SECONDS) seconds (FUZZ_SECONDS=...); needs a nightly'
	@echo '             toolchain and cargo-fuzz'
	@echo 'make bench   measure against other balancers and write docs/benchmarks.md (root)'
	@echo 'make clean   remove what was built'
	@echo
	@echo 'deb, demo, test, vm-full and bench first install the Debian packages they need (packaging/install-deps). deb needs root'
	@echo 'for that only.'
	@echo 'All but those packages is Rust $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later: https://rustup.rs'

build:
	$(CARGO) build --release --locked

deb:
	packaging/install-deps build deb
	$(CARGO) build --release --locked
	packaging/build-deb

demo: need-root
	packaging/install-deps build lab
	$(CARGO) build --release --locked
	netns-lab/lab demo

# The runner comes last, so that its summary closes the output. Three tests for each core: labs wait more than they work.
# The virtual machine's system, if it is not there yet, is made beside what the compiler does; whoever needs it waits.
test: need-root
	packaging/install-deps build deb lab vm
	@netns-lab/vm/build > /dev/null & system=$$!; \
	$(MAKE) --no-print-directory lint && $(CARGO) test --workspace --locked --doc || status=$$?; \
	wait $$system && exit $${status:-0}
ifneq ($(shell command -v cargo-nextest),)
	$(CARGO) nextest run --workspace --locked --no-fail-fast --test-threads $$((3 * $$(nproc)))
else
	$(CARGO) test --workspace --locked --no-fail-fast --lib --bins --tests -- --test-threads 1
endif

vm-full: need-root
	packaging/install-deps build deb lab vm
	netns-lab/vm/full

# Shell scripts are known by their first line; scenarios, which the lab reads in, by their directive.
lint:
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --locked --no-deps
	grep -rlIE --exclude-dir=target --exclude-dir=.git '^#!.*[/ ](ba|da)?sh$$' . | xargs -d '\n' shellcheck -x -a
	shellcheck netns-lab/scenarios/*

# What a run finds is added to the kept corpus by hand: CONTRIBUTING.md.
fuzz:
	@$(CARGO) +nightly fuzz --version > /dev/null || { echo 'make: this needs a nightly toolchain and `cargo install cargo-fuzz`' >&2; exit 1; }
	for target in $$($(CARGO) +nightly fuzz list); do \
		mkdir -p fuzz/target/found/$$target && \
		$(CARGO) +nightly fuzz run $$target fuzz/target/found/$$target fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit; \
	done

bench: need-root
	packaging/install-deps
	$(CARGO) build --release --locked
	benches/run

clean:
	$(CARGO) clean

need-root:
	@test "$$(id -u)" = 0 || { echo 'make: this needs root, for packages, network namespaces and nftables' >&2; exit 1; }
