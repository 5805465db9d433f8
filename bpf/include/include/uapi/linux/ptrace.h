/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * A probe's context. Its layout is the machine's: bcc searches arch/MACHINE/include for <asm/...>.
 */
#pragma once
#include <linux/types.h>
#include <asm/ptrace.h>
