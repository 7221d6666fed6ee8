/* The walker's driver for a virtio balloon, by polling. Source: Virtual I/O Device (VIRTIO) Version 1.2, 2.7, 4.2, 5.5. */
#ifndef BALLOON_H
#define BALLOON_H

#include "walker.h"

/* Of the first vCPU, between two of its steps. `attention`: a device has interrupted. */
void balloon_tick(volatile struct walker_params *params, int attention);

/* walker.c */
volatile uint64_t *page_address(volatile struct walker_params *params, uint32_t page);
uint64_t guest_address(volatile struct walker_params *params, uint32_t page);

#endif
