"""C functions of hypothesis' making, compiled by two compilers at four levels into one program, and the truth about their calls.

All calls in them go through a table that the compiler must not believe to know, so that none is inlined or made a loop: each call in the
source is a call in every variant, or a tail call. The truth is the same source once more, unoptimised, where each function logs its calls.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

FUNCTIONS = 14
CALLS = 9  # of each function by main, for each variant; they call each other
VARIANTS = {
    "gcc_O0": ("gcc", "-O0"),
    "gcc_O1": ("gcc", "-O1"),
    "gcc_O2": ("gcc", "-O2", "-fcf-protection"),
    "gcc_O3": ("gcc", "-O3", "-fomit-frame-pointer"),
    "clang_O0": ("clang", "-O0"),
    "clang_O1": ("clang", "-O1"),
    "clang_O2": ("clang", "-O2", "-fcf-protection"),
    "clang_O3": ("clang", "-O3", "-fno-omit-frame-pointer"),
}
Call = tuple[int, int, int, int]  # three arguments and the result

_HEAD = """
#include <stdint.h>
#include <stdio.h>
#define JOIN2(k, v) f##k##_##v
#define JOIN(k, v) JOIN2(k, v)
#define TABLE2(v) table_##v
#define TABLE1(v) TABLE2(v)
#define TABLE TABLE1(VARIANT)
#define MASK(x) ((x) & 0x7fffffff)
typedef uint64_t word;
typedef word (*function)(word a, word b, word c, word fuel);
extern function volatile TABLE[];
static volatile word sink[8];
#ifdef TRUTH
#define F(k) static word body##k(word a, word b, word c, word fuel); \\
    word JOIN(k, VARIANT)(word a, word b, word c, word fuel) { \\
        word r = body##k(a, b, c, fuel); printf("%d %lu %lu %lu %lu\\n", k, a, b, c, r); return r; } \\
    static word body##k(word a, word b, word c, word fuel)
#else
#define F(k) __attribute__((noinline)) word JOIN(k, VARIANT)(word a, word b, word c, word fuel)
#endif
"""
_MAIN = """
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
typedef uint64_t word;
typedef word (*function)(word, word, word, word);
%(tables)s
static function volatile *const tables[] = {%(names)s};
int main(void)
{
    char line[64];
#ifndef TRUTH
    printf("{\\"ready\\": %%d}\\n", getpid());
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 0;
#endif
    for (unsigned v = 0; v < sizeof tables / sizeof *tables; v++) {
        word seed = 20240229;
        for (int i = 0; i < %(functions)d * %(calls)d; i++) {
            word w[3];
            for (int j = 0; j < 3; j++) {
                seed = seed * 6364136223846793005 + 1442695040888963407;
                w[j] = seed >> 33 >> (seed >> 59);  /* small ones as well */
            }
            tables[v][i %% %(functions)d](w[0], w[1], w[2], 2);
        }
    }
#ifndef TRUTH
    puts("{\\"done\\": 1}");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) return 0;
#endif
    return 0;
}
"""

_names = st.sampled_from(["a", "b", "c", "x"])
_numbers = st.sampled_from([0, 1, 2, 3, 7, 64, 255, 4096, 0x7FFFFFFF]).map(str)
_atoms = _names | _numbers
_sums = st.builds("({} {} {})".format, _atoms, st.sampled_from(["+", "-", "^", "&", "|", "*"]), _atoms)
_expressions = _atoms | _sums | st.builds("({} >> {})".format, _names, st.integers(1, 9)) | st.builds("MASK({})".format, _sums)
_comparisons = st.builds("{} {} {}".format, _names, st.sampled_from(["<", "==", "!=", ">", "<="]), _atoms)
_conditions = _comparisons | st.builds("{} & {}".format, _names, _numbers)
_calls = st.builds(
    "TABLE[{}](MASK({}), MASK({}), MASK({}), --fuel)".format, st.integers(0, FUNCTIONS - 1), _expressions, _expressions, _expressions
)
_simple = st.one_of(
    st.builds("x = {};".format, _expressions),
    st.builds("{} = MASK({});".format, st.sampled_from("ac"), _expressions),  # not b: loops end because it only ever shrinks
    st.builds("sink[{} & 7] = {};".format, _names, _expressions),
)
_statements = st.one_of(
    _simple,
    st.builds("if ({}) return MASK({});".format, _conditions, _expressions),
    st.builds("if ({}) {{ {} }} else {{ {} }}".format, _conditions, _simple, _simple),
    st.builds("for (word i = 0; i < ({} & 7); i++) {{ {} x ^= i; }}".format, _names, _simple),
    st.builds("do {{ {} b >>= 1; }} while (b);".format, _simple),
    st.builds("while (b) {{ b >>= 3; switch (b & 7) {{ {} }} }}".format, st.lists(_simple, min_size=6, max_size=8).map(
        lambda bodies: " ".join(f"case {i}: {body} {'break' if i % 3 else 'continue'};" for i, body in enumerate(bodies))
    )),
    st.builds("if (b & {}) {{ b >>= 1; {} goto again; }}".format, _numbers, _simple),
    st.builds("if (fuel) x += {};".format, _calls),
    st.builds("if (fuel && {}) return {};".format, _conditions, _calls),
    st.builds("if (fuel && {}) return MASK({} + 1);".format, _conditions, _calls),
    # More than the red zone has room for: the stack pointer moves.
    st.builds("{{ volatile word kept[24]; kept[b & 7] = {}; kept[9] = x; x ^= kept[b & 7]; }}".format, _expressions),
)  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """A function's body. `x` starts as an argument, and `again` is a label in front of its first statement or so."""
    first, *others = draw(st.lists(_statements, min_size=1, max_size=5))
    start = draw(st.sampled_from(["a", "b", "c", "0", "a + b", "1"]))
    ahead = "goto" not in first and draw(st.booleans())
    parts = [f"word x = {start};", *([first, "again:;"] if ahead else ["again:;", first]), *others]
    ending = draw(st.builds("return fuel ? {} : MASK(x);".format, _calls) | st.just("return MASK(x);"))
    return " ".join([*parts, "if (0) goto again;", ending])


# Not the simplest program, with which hypothesis begins: it is the same function over and over.
programs = st.lists(bodies(), min_size=FUNCTIONS, max_size=FUNCTIONS).filter(lambda drawn: len(set(drawn)) > FUNCTIONS - 2)


@dataclass(frozen=True, slots=True)
class Generated:
    """The program, and of each function by number how often it is called with what result in every variant."""

    path: Path
    truth: dict[int, Counter[Call]]


def build(folder: Path, program: list[str]) -> Generated:
    """Compiles it in every variant; runs the truth."""
    source = folder / "functions.c"
    table = f"function volatile TABLE[] = {{{', '.join(f'JOIN({k}, VARIANT)' for k in range(FUNCTIONS))}}};"
    source.write_text("\n".join([_HEAD, *(f"F({k}) {{ {body} }}" for k, body in enumerate(program)), table]))
    objects = []
    for variant, (compiler, *flags) in VARIANTS.items():
        objects.append(str(folder / f"{variant}.o"))
        _run(compiler, "-w", *flags, f"-DVARIANT={variant}", "-c", str(source), "-o", objects[-1])
    path = folder / "generated"
    _run("gcc", "-w", "-o", str(path), str(_main(folder, list(VARIANTS))), *objects)
    true = folder / "truth"
    _run("gcc", "-w", "-O0", "-DTRUTH", "-DVARIANT=truth", "-o", str(true), str(_main(folder, ["truth"])), str(source))
    counted: dict[int, Counter[Call]] = {k: Counter() for k in range(FUNCTIONS)}
    for line in subprocess.run([true], check=True, capture_output=True, text=True, timeout=60).stdout.splitlines():
        k, *call = map(int, line.split())
        counted[k][call[0], call[1], call[2], call[3]] += 1
    return Generated(path, counted)


def _main(folder: Path, variants: list[str]) -> Path:
    path = folder / f"main_{variants[0]}.c"
    tables = "\n".join(f"extern function volatile table_{one}[];" for one in variants)
    names = ", ".join(f"table_{one}" for one in variants)
    path.write_text(_MAIN % {"tables": tables, "names": names, "functions": FUNCTIONS, "calls": CALLS})
    return path


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=120)
