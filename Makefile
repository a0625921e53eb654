# make            build/mailpolld and build/mailpollctl
# make test       every test (./run test installs what is missing first)
# make demo       a simulator and mailpolld beside it
# make check-tree does the tree keep what its documents say?
# make asan       a build with the address and undefined-behaviour sanitizers
# make asan-test  the tests with it, but for those of other programs, of time and of volume
# make tsan       some of them with the thread sanitizer
# make crash      kill -9 at every stage
# make soak       faults at random for SOAK_SECONDS
# make tidy       clang-tidy over daemon
# make format     the lines that are not committed yet
# make day        a day of 500 mailboxes, in nine minutes
# make bench      speed and scale beside other programs: tests/bench/README.md
# make man        man/mailpolld-errors.7 from the failure table
# make fuzz       each fuzz target for FUZZ_SECONDS
# make install    DESTDIR= PREFIX=
# make deb        build/mailpolld_VERSION_ARCH.deb, which lintian has nothing against
# Nothing is installed by make itself; ./run does that.

VERSION := 0.1.0
BUILD ?= build
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= $(PREFIX)/lib/sysusers.d
TMPFILESDIR ?= $(PREFIX)/lib/tmpfiles.d
PYTHON ?= /usr/bin/python3
FUZZ_SECONDS ?= 30
SOAK_SECONDS ?= 3600
SOAK_SEED ?= 1
# Most tests wait most of the time.
TEST_JOBS ?= 10

# libevent's loop and its OpenSSL bufferevents; OpenSSL for TLS and hashes; libcurl for the token endpoint and
# mailpollctl; libyaml for the configuration; libsystemd for sd_notify and the journal; SQLite for the state;
# Jansson for JSON.
PACKAGES := libevent libevent_openssl openssl libcurl yaml-0.1 libsystemd sqlite3 jansson

ifneq ($(filter-out clean format,$(or $(MAKECMDGOALS),all)),)
missing := $(foreach p,$(PACKAGES),$(shell pkg-config --exists $(p) || echo $(p)))
ifneq ($(strip $(missing)),)
$(error missing libraries (pkg-config names): $(missing); ./run TARGET installs the packages)
endif
endif

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wcast-qual -Wformat=2 \
	-Wmissing-format-attribute -Wpointer-arith -Wvla -Wundef -Wimplicit-fallthrough
ifdef WERROR
WARNINGS += -Werror
endif
HARDENING ?= -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE -fstack-clash-protection \
	$(if $(filter x86_64-%,$(shell $(CC) -dumpmachine)),-fcf-protection)
HARDENING_LD ?= -pie -Wl,-z,relro,-z,now
OPTIMIZE ?= -O2 -g
SANITIZE ?=
CFLAGS_ALL = -std=c17 -D_GNU_SOURCE -DMAILPOLLD_VERSION='"$(VERSION)"' $(WARNINGS) $(OPTIMIZE) $(HARDENING) $(SANITIZE) \
	$(shell pkg-config --cflags $(PACKAGES)) -Idaemon $(CFLAGS)
LDFLAGS_ALL = $(HARDENING_LD) $(SANITIZE) $(LDFLAGS)
LIBS = $(shell pkg-config --libs $(PACKAGES)) -lpthread

# The two programs' own files, and the clock of the test build; everything else is shared.
CTL := $(sort $(wildcard daemon/mailpollctl*.c))
MAINS := daemon/main.c $(CTL) daemon/clock_scaled.c
SHARED := $(filter-out $(MAINS),$(sort $(wildcard daemon/*.c)))
SHARED_OBJS := $(SHARED:daemon/%.c=$(BUILD)/obj/%.o)
UNIT_TESTS := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(sort $(wildcard tests/unit/test_*.c)))
FUZZERS := $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))

.PHONY: all bench day man test test-programs unit integration demo asan asan-test tsan crash soak fuzz tidy format install deb clean check-tree
all: $(BUILD)/mailpolld $(BUILD)/mailpollctl

$(BUILD)/mailpolld: $(BUILD)/obj/main.o $(SHARED_OBJS)
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
# The same daemon with a clock that MAILPOLLD_CLOCK_RATE speeds up; for tests only, never installed.
$(BUILD)/mailpolld-scaled: $(BUILD)/obj/main.o $(filter-out %/clock.o,$(SHARED_OBJS)) $(BUILD)/obj/clock_scaled.o
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)
# A disk that hangs, for tests.
$(BUILD)/stall.so: tests/stall.c | $(BUILD)/obj
	$(CC) $(WARNINGS) -std=c17 -O2 -fPIC -shared -o $@ $<
$(BUILD)/mailpollctl: $(CTL:daemon/%.c=$(BUILD)/obj/%.o) $(BUILD)/obj/util.o
	$(CC) $(LDFLAGS_ALL) -o $@ $^ $(shell pkg-config --libs libcurl jansson)
$(BUILD)/obj/%.o: daemon/%.c Makefile | $(BUILD)/obj
	$(CC) $(CFLAGS_ALL) -MMD -c -o $@ $<
$(BUILD)/libshared.a: $(SHARED_OBJS)
	rm -f $@ && ar rcs $@ $^
$(BUILD)/unit/%: tests/unit/%.c $(BUILD)/libshared.a | $(BUILD)/unit
	$(CC) $(CFLAGS_ALL) -MMD $(LDFLAGS_ALL) -o $@ $< $(BUILD)/libshared.a $(LIBS) -lcmocka
# These functions are the test's own.
$(BUILD)/unit/test_fleet: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,token_get token_cancel token_cache_snapshot imap_session_new imap_session_free imap_session_abandon)
$(BUILD)/unit/test_delivery: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,sink_conf sink_many_at_once sink_keeps_file sink_is_doubtful sink_deliver spool_release spool_remove store_settle)
$(BUILD)/unit/test_sink_maildir: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,volume_flush volume_rename store_add_intent store_drop_intent store_instance spool_remove \
	flush_directory flush_directory_of volume_get volume_dev volume_note_free store_settle store_found_intents lane_submit)
$(BUILD)/unit/test_volume: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,fstatfs syncfs flush_opened open)
$(BUILD)/unit/test_sink_command: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,posix_spawn kill waitid log_write)
$(BUILD)/unit/test_audit: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,lane_submit log_write)
$(BUILD)/unit/test_config: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,readdir lstat getgrnam_r)
$(BUILD)/unit/test_quarantine: LDFLAGS += $(addprefix -Wl$(comma)--wrap=,flush_file flush_directory volume_lane lane_submit)
comma := ,
$(BUILD)/obj $(BUILD)/unit:
	mkdir -p $@
-include $(wildcard $(BUILD)/obj/*.d $(BUILD)/unit/*.d)
.PRECIOUS: $(BUILD)/obj/%.o

# All that tests run, by all processors.
JOBS ?= $(shell nproc)
test-programs:
	$(MAKE) -j$(JOBS) all $(BUILD)/mailpolld-scaled $(BUILD)/stall.so $(BUILD)/errors_page $(UNIT_TESTS)

# The package first where it can be built, so that no test competes with its compilers; its own tests have just been run.
test: export DEB_BUILD_OPTIONS += nocheck
test: test-programs unit check-tree $(and $(wildcard /usr/bin/dh),$(wildcard /usr/bin/lintian),deb) integration

# Side by side, what each prints in one piece.
unit: $(UNIT_TESTS)
	@$(MAKE) --no-print-directory -j$(JOBS) --output-sync=target $(UNIT_TESTS:$(BUILD)/unit/%=unit-%)
$(UNIT_TESTS:$(BUILD)/unit/%=unit-%): unit-%: $(BUILD)/unit/%
	@echo "== $<"; $<
.PHONY: $(UNIT_TESTS:$(BUILD)/unit/%=unit-%)

# What Python compiles is kept, once for all workers: a --collect-only compiles it before they begin.
integration: export PYTHONDONTWRITEBYTECODE =
integration: export PYTHONPYCACHEPREFIX = $(abspath build/pycache)
integration: all $(BUILD)/mailpolld-scaled $(BUILD)/stall.so
	BUILD_DIR=$(abspath $(BUILD)) $(PYTHON) -m pytest -q --collect-only -p no:cacheprovider tests/integration > $(BUILD)/collected || { cat $(BUILD)/collected; false; }
	BUILD_DIR=$(abspath $(BUILD)) $(PYTHON) -m pytest -q -rs -p no:cacheprovider $(if $(wildcard /usr/lib/python3/dist-packages/xdist),-n $(TEST_JOBS)) \
		$(PYTEST_ARGS) --ignore=tests/integration/test_day.py tests/integration
# With clocks that run fast a busy machine is a slow network; 5: PYTEST_ARGS leave it out.
	BUILD_DIR=$(abspath $(BUILD)) $(PYTHON) -m pytest -q -rs -p no:cacheprovider $(PYTEST_ARGS) tests/integration/test_day.py || [ $$? -eq 5 ]

$(BUILD)/errors_page: tests/errors_page.c $(BUILD)/libshared.a
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $< $(BUILD)/libshared.a $(LIBS)
# The manual page that is made from the failure table.
man: $(BUILD)/errors_page
	$(BUILD)/errors_page > man/mailpolld-errors.7

# 24 hours of 500 mailboxes in nine minutes: faster, and a pause of the machine is a dead peer.
day: all $(BUILD)/mailpolld-scaled
	DAY_MAILBOXES=500 DAY_HOURS=24 DAY_RATE=160 BUILD_DIR=$(abspath $(BUILD)) $(PYTHON) -m pytest -q -s -p no:cacheprovider \
		tests/integration/test_day.py

BENCH_TOOLS := $(addprefix $(BUILD)/bench/tools/,floor light measure take_message)
bench: all $(BENCH_TOOLS)
	BUILD_DIR=$(abspath $(BUILD)) $(PYTHON) -B tests/bench/bench.py
$(BUILD)/bench/tools/%: tests/bench/%.c tests/bench/client.c tests/bench/disk.c tests/bench/client.h tests/bench/disk.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -o $@ $(filter %.c,$^) $(shell pkg-config --libs libevent libevent_openssl openssl) -lpthread

check-tree: $(BUILD)/errors_page
	$(BUILD)/errors_page | diff -u man/mailpolld-errors.7 -
	$(PYTHON) tests/check_tree.py

SAN_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
asan:
	$(MAKE) BUILD=build/asan SANITIZE="$(SAN_FLAGS)" HARDENING= OPTIMIZE="-O1 -g" all build/asan/mailpolld-scaled
# Without those that are about other programs, time, or how much there is of something.
asan-test:
	$(MAKE) BUILD=build/asan SANITIZE="$(SAN_FLAGS)" HARDENING= OPTIMIZE="-O1 -g" TEST_JOBS=8 \
		PYTEST_ARGS="$(foreach t,package.py systemd.py bench.py simulator.py day.py memory.py delivery.py::test_fifty_mailboxes \
			restart.py::test_many_mailboxes,--deselect=tests/integration/test_$(t))" test-programs unit integration

tsan:
	TSAN_OPTIONS=suppressions=$(abspath tests/tsan.supp) $(MAKE) BUILD=build/tsan SANITIZE="-fsanitize=thread" HARDENING= OPTIMIZE="-O1 -g" unit
	TSAN_OPTIONS=suppressions=$(abspath tests/tsan.supp) $(MAKE) BUILD=build/tsan SANITIZE="-fsanitize=thread" HARDENING= OPTIMIZE="-O1 -g" \
		PYTEST_ARGS="-k 'first_message or fifty or trace or sinks or control or backup'" integration
crash soak: all $(BUILD)/mailpolld-scaled $(BUILD)/stall.so
	CRASH_KILLS=60 CHAOS_SEED=$(SOAK_SEED) CHAOS_SECONDS=$(SOAK_SECONDS) BUILD_DIR=$(abspath $(BUILD)) $(PYTHON) -m pytest -q -p no:cacheprovider \
		tests/integration/test_$(if $(filter crash,$@),crash,chaos).py
# The lines that are not committed yet.
format:
	git clang-format --extensions c,h HEAD

# With -j side by side; with -O what each prints stands together.
fuzz: $(FUZZERS:%=run-%)
$(FUZZERS:%=run-%): run-%: build/fuzz/%
	@echo "== $*"; mkdir -p build/fuzz/corpus/$*
	@build/fuzz/$* -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -max_len=200000 -verbosity=0 \
		-print_final_stats=1 build/fuzz/corpus/$* $(wildcard tests/fuzz/seeds/$*)
.PHONY: $(FUZZERS:%=run-%)
FUZZ_CC ?= clang
FUZZ_FLAGS = $(filter-out -Werror,$(CFLAGS_ALL)) -fno-sanitize-recover=all
build/fuzz/%: tests/fuzz/%.c build/fuzz/libshared.a
	$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined -o $@ $< build/fuzz/libshared.a $(LIBS)
build/fuzz/libshared.a: $(SHARED:daemon/%.c=build/fuzz/obj/%.o)
	rm -f $@ && ar rcs $@ $^
build/fuzz/obj/%.o: daemon/%.c Makefile
	@mkdir -p $(@D)
	$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined -MMD -c -o $@ $<
-include $(wildcard build/fuzz/obj/*.d)

demo: all
	$(PYTHON) tests/demo.py

tidy:
	clang-tidy --quiet $(wildcard daemon/*.c) -- $(CFLAGS_ALL)

install: all
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(SYSCONFDIR)/mailpolld $(DESTDIR)$(UNITDIR) \
		$(DESTDIR)$(SYSUSERSDIR) $(DESTDIR)$(TMPFILESDIR) $(DESTDIR)$(PREFIX)/share/man/man5 $(DESTDIR)$(PREFIX)/share/man/man7 \
		$(DESTDIR)$(PREFIX)/share/man/man8
	install -m 755 $(BUILD)/mailpolld $(DESTDIR)$(PREFIX)/sbin/mailpolld
	install -m 755 $(BUILD)/mailpollctl $(DESTDIR)$(PREFIX)/bin/mailpollctl
	test -e $(DESTDIR)$(SYSCONFDIR)/mailpolld/mailpolld.yaml || \
		install -m 644 conf/mailpolld.yaml $(DESTDIR)$(SYSCONFDIR)/mailpolld/mailpolld.yaml
	sed -e 's|/usr/local/sbin/|$(PREFIX)/sbin/|; s|/usr/local/bin/|$(PREFIX)/bin/|' systemd/mailpolld.service \
		> $(DESTDIR)$(UNITDIR)/mailpolld.service
	chmod 644 $(DESTDIR)$(UNITDIR)/mailpolld.service
	install -m 644 systemd/mailpolld.sysusers $(DESTDIR)$(SYSUSERSDIR)/mailpolld.conf
	install -m 644 systemd/mailpolld.tmpfiles $(DESTDIR)$(TMPFILESDIR)/mailpolld.conf
	install -d $(DESTDIR)$(PREFIX)/share/mailpolld
	install -m 644 conf/mailpolld.yaml conf/prometheus-alerts.yml conf/grafana-dashboard.json conf/mailpolld.logrotate $(DESTDIR)$(PREFIX)/share/mailpolld/
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 conf/mailpollctl.bash-completion $(DESTDIR)$(PREFIX)/share/bash-completion/completions/mailpollctl
	for page in man/*.[578]; do install -m 644 $$page $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/; done

# Built in a copy, whose changelog gets VERSION: this file alone says which version it is. Make's own variables stay out.
DEB_FILES := LICENSE Makefile README.md conf daemon debian man systemd tests/unit
DEB_TREE := build/deb/mailpolld-$(VERSION)
deb: build/deb/$(VERSION).built
	@ls build/mailpolld_$(VERSION)_*.deb
build/deb/$(VERSION).built: $(shell find $(DEB_FILES) -type f)
	rm -rf build/deb && mkdir -p $(DEB_TREE)
	cp -a --parents $(DEB_FILES) $(DEB_TREE)
	sed -i '1s/(.*)/($(VERSION))/' $(DEB_TREE)/debian/changelog
	cd $(DEB_TREE) && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL dpkg-buildpackage -b -us -uc
	lintian --fail-on error,warning build/deb/*.changes
	mv build/deb/*.deb build/
	touch $@

clean:
	rm -rf build
