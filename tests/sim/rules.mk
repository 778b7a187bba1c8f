# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# The simulator (sim.c), and mutants: tests/seeded/sim/FILE-NAME.sed plants one bug in
# launcher/fleet/FILE.c, and the simulator linked with it must fail.

SIM_COUNT ?= 100000
SIM_SRC   := tests/sim/sim.c tests/sim/watch.c tests/sim/world.c
SIM_OBJ   := $(SIM_SRC:%.c=$(B)/%.o)
SIM       := $(B)/tests/sim/sim
MUTANTS   := $(patsubst tests/seeded/sim/%.sed,$(B)/tests/sim/mutant/%,$(sort $(wildcard tests/seeded/sim/*.sed)))

$(SIM): $(SIM_OBJ) $(call LIB,launcher base)
	$(call say,LINK    $@)
	$(Q)$(LINK) $(LDLIBS)

$(B)/tests/sim/mutant/%.c: tests/seeded/sim/%.sed FORCE
	$(Q)mkdir -p $(@D); src=launcher/fleet/$(firstword $(subst -, ,$*)).c; \
	sed -f $< "$$src" >$@.new; \
	if cmp -s $@.new "$$src"; then echo "$<: changes nothing in $$src"; exit 1; fi; \
	if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(B)/tests/sim/mutant/%.o: $(B)/tests/sim/mutant/%.c $(B)/flags
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -w -c -o $@ $<

$(MUTANTS): $(B)/tests/sim/mutant/%: $(B)/tests/sim/mutant/%.o $(SIM_OBJ) $(call LIB,launcher base)
	$(Q)$(LINK) $(LDLIBS)

-include $(SIM_OBJ:.o=.d)
tests check check-e2e: $(SIM) $(MUTANTS)

check-sim: $(SIM) $(MUTANTS) ## the simulator: SIM_COUNT=100000 seeded sequences of failures
	$(Q)time $(SIM) $(SIM_COUNT)

campaign: all $(FAKE_WORKER) ## the fault campaign: 200 seeded trials on 8 hosts over ssh
	$(Q)B='$(B)' tests/e2e/campaign.py 200

.PHONY: check-sim campaign
