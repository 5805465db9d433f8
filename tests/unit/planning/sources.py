"""Small programs in C, C++ and Go, for plans to be made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

C = """
#include <sys/sdt.h>
#include <unistd.h>
__attribute__((noinline)) int work(int a, char b, long c) { STAP_PROBE1(app, inside, a); return getpid() * a + b + (int)c; }
__attribute__((noinline)) long nine(long a, long b, long c, long d, long e, long f, long g, long h, long i) {
    return work(a, b, c) + d + e + f + g + h + i;
}
__attribute__((noinline)) int query(int n, const char *sql) {
    STAP_PROBE3(app, query__start, n, (unsigned char)n, sql);
    int r = work(n, 2, 3);
    if (r > 10) { STAP_PROBE1(app, query__done, r); return work(r, 1, 1); }
    STAP_PROBE1(app, query__done, -r);
    return -r;
}
__attribute__((noinline)) void begin(int n) { work(n, 1, 1); STAP_PROBE1(app, tx__begin, n); work(n, 1, 1); }
__attribute__((noinline)) void commit(int n) { work(n, 1, 1); STAP_PROBE1(app, tx__commit, n); work(n, 1, 1); }
#define F(name, code) __asm__(".text; .globl " #name "; .type " #name ",@function;" #name ": " code "; .size " #name ",.-" #name);
F(rounds, "dec %edi; jne rounds; ret")
F(breakpoint, "int3; ret")
F(leaf, "nop; ret")
F(holds_nop5, "push %rbx; 990: .byte 0x0f,0x1f,0x44,0,0; pop %rbx; ret;"
  ".pushsection .note.stapsdt,\\"\\",\\"note\\"; .balign 4; .4byte 992f-991f, 994f-993f, 3; 991: .asciz \\"stapsdt\\"; 992: .balign 4;"
  "993: .8byte 990b, _.stapsdt.base, 0; .asciz \\"app\\"; .asciz \\"nop5\\"; .asciz \\"\\"; 994: .balign 4; .popsection")
int main(int argc, char **argv) {
    char c;
    if (argc < 2) return 0;
    begin(argc);
    commit(argc);
    return query(argc, argv[0]) + (int)nine(1, 2, 3, 4, 5, 6, 7, 8, 9) + read(0, &c, 1);
}
"""
CXX = """
#include <stdexcept>
#include <cstdio>
extern "C" __attribute__((noinline)) int risky(int n) { if (n > 3) throw std::runtime_error("no"); std::puts("x"); return n + 1; }
extern "C" __attribute__((noinline)) int tail(int n) { return n ? risky(n + 1) : 7; }
extern "C" __attribute__((noinline)) int jump(int (**table)(int), int n) { return table[n](n); }
asm(".globl padded; .type padded, @function; padded: mov $7, %eax; .byte 0xf3; ret; .size padded, . - padded");
int main(int argc, char **argv) { try { return risky(argc) + tail(argc); } catch (...) { return 1; } }
"""
GO = """
package main
var n = 3
//go:noinline
func work(a []int) int { return len(append(a, n)) * n }
func main() { n = work(nil) }
"""


@dataclass(frozen=True, slots=True)
class Programs:
    """Paths of the compiled programs."""

    c: Path
    stripped: Path
    cxx: Path
