/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * For socket filters. bcc's proto.h includes it; probes look at no packet.
 */
#pragma once
