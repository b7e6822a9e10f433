"""Translate PTX into C, so that what NVRTC makes of the kernels runs on the CPU.

A kernel becomes a C function of one CUDA thread over a struct of its registers, each of which holds
bits: an instruction reads them as its type says, and writes bits. Every load and store goes through
shim/ptx.h, which checks its bounds and alignment, and threads meet where the scheduler of that file
lets them. An instruction that is not known here is refused by name.
"""

import re

_SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid)\.([xyz])")
_OPERANDS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
_ENTRY = re.compile(r"\.entry (\w+)\((.*?)\)[^{]*\{(.*?)\n\}", re.DOTALL)
_STATEMENT = re.compile(r"(?:@(?P<no>!?)(?P<guard>%\w+)\s+)?(?P<op>[\w.]+)\s*(?P<rest>.*)")
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

#: Operations of whole numbers and bits, on operands of the type that ends their name.
_WHOLE = {
    "add": "{a} + {b}",
    "sub": "{a} - {b}",
    "mul.lo": "{a} * {b}",
    "mul.hi": "({wide}){a} * {b} >> {bits}",
    "mul.wide": "({wide}){a} * {b}",
    "mad.lo": "{a} * {b} + {c}",
    "div": "{a} / {b}",
    "rem": "{a} % {b}",
    "min": "{a} < {b} ? {a} : {b}",
    "max": "{a} > {b} ? {a} : {b}",
    "neg": "-{a}",
    "not": "~{a}",
    "and": "{a} & {b}",
    "or": "{a} | {b}",
    "xor": "{a} ^ {b}",
}
#: Operations of float32 that round to nearest even; with ".ftz" subnormal numbers become zero. One
#: without ".rn" may be contracted by ptxas, and is not here.
_REAL = {
    "fma.rn": "fmaf({a}, {b}, {c})",
    "add.rn": "{a} + {b}",
    "sub.rn": "{a} - {b}",
    "mul.rn": "{a} * {b}",
    "rcp.rn": "1.0f / {a}",
    "neg": "-{a}",
    "min": "smaller({a}, {b})",
    "rsqrt.approx": "reciprocal_root({a})",
}


class UntranslatableError(Exception):
    """An instruction or operand of which no translation is known."""


def translate(ptx):
    """Return the C of all kernels, which begins with ``#include "ptx.h"``, and for each kernel the
    types of its parameters.
    """
    ptx = re.sub(r"//.*", "", ptx)
    kernels = [_Kernel(*entry.groups()) for entry in _ENTRY.finditer(ptx)]
    code = "\n".join(['#include "ptx.h"', *(kernel.code for kernel in kernels)])
    return code, {kernel.name: list(kernel.parameters.values()) for kernel in kernels}


class _Kernel:
    """One kernel, statement by statement."""

    def __init__(self, name, parameters, body):
        self.name = name
        found = re.findall(r"\.param \.(\w+) (?:\.ptr[ .\w]*)?(\w+)", parameters)
        self.parameters = {parameter: kind for kind, parameter in found}
        self.registers, self.shared, self.shared_bytes, self.meetings = {}, {}, 0, 0
        lines = [line for text in body.split("\n") for line in self._line(text.strip())]
        self.code = self._function(lines)

    def _function(self, lines):
        """Return the C of the kernel. Registers of threads that meet outlive the C function."""
        struct = f"struct registers_of_{self.name}"
        fields = " ".join(f"{_word(bits)} {name};" for name, bits in self.registers.items())
        if self.meetings:
            start = [f"{struct} *s = given;", "if (thread->at) goto *thread->at;"]
        else:
            start = [f"{struct} registers, *s = &registers;", "(void)given;"]
        return "\n".join(
            [
                f"{struct} {{ {fields} }};",
                f"static void body_of_{self.name}(struct Thread *thread, void *given,",
                "const uint64_t *parameter) {",
                *start,
                *lines,
                "thread->waits = DONE;",
                "}",
                f"KERNEL({self.name}, {self.shared_bytes}, {self.meetings > 0:d})",
            ]
        )

    def _line(self, text):
        """Return the C of a line of PTX: labels, declarations and instructions."""
        if text in ("{", "}"):
            return []
        if label := re.fullmatch(r"\$?(\w+):", text):
            return [f"{label[1]}: ;"]
        statements = [part.strip() for part in text.split(";")]
        return [self._statement(part) for part in statements if part]

    def _statement(self, text):
        if text.startswith("."):
            self._declare(text)
            return ""
        match = _STATEMENT.fullmatch(text)
        if match is None:
            raise UntranslatableError(text)
        code = self._instruction(match["op"], _OPERANDS.findall(match["rest"]), text)
        if match["guard"]:
            return f"if ({match['no']}{self._register(match['guard'])}) {{ {code} }}"
        return code

    def _declare(self, text):
        if many := re.fullmatch(r"\.reg \.(\w+)\s+(%\w+)<(\d+)>", text):
            names = [f"{many[2]}{i}" for i in range(int(many[3]))]
            self.registers |= {_field(name): _bits(many[1]) for name in names}
        elif one := re.fullmatch(r"\.reg \.(\w+)\s+(%?\w+)", text):
            if self.registers.setdefault(_field(one[2]), _bits(one[1])) != _bits(one[1]):
                raise UntranslatableError(f"{text} in {self.name}, declared otherwise before")
        elif array := re.fullmatch(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\]", text):
            start = -(-self.shared_bytes // 16) * 16
            self.shared[array[2]], self.shared_bytes = start, start + int(array[3])
        elif not text.startswith((".pragma", ".loc")):
            raise UntranslatableError(text)

    # --- operands ---------------------------------------------------------------------------

    def _register(self, name):
        if _field(name) not in self.registers:
            raise UntranslatableError(f"operand {name} in {self.name}")
        return f"s->{_field(name)}"

    def _read(self, operand, kind):
        """Return the C of an operand, of the type that `kind` names."""
        if special := _SPECIAL.fullmatch(operand):
            bits = f"thread->{special[1]}[{'xyz'.index(special[2])}]"
        elif operand in self.shared:
            bits = f"((uint64_t)thread->shared + {self.shared[operand]})"
        elif re.fullmatch(r"0f[0-9A-Fa-f]{8}", operand):
            bits = f"0x{operand[2:]}u"
        elif re.fullmatch(r"-?\d+", operand):
            bits = f"({operand}LL)"
        else:
            bits = self._register(operand)
        return f"as_float({bits})" if kind == "f32" else f"(({_type(kind)}){bits})"

    def _write(self, operand, kind, value):
        bits = f"as_bits({value})" if kind == "f32" else f"({_word(_bits(kind))})({value})"
        return f"{self._register(operand)} = {bits};"

    def _address(self, operand):
        base, offset = re.fullmatch(r"\[([%\w]+)([+-]\d+)?\]", operand).groups()
        return f"{self._read(base, 'u64')}{offset or ''}"

    # --- instructions -----------------------------------------------------------------------

    def _instruction(self, op, operands, text):
        parts = op.split(".")
        special = getattr(self, f"_do_{parts[0]}", None)
        code = special(parts, operands) if special else None
        if code is None:
            code = self._arithmetic(parts, operands)
        if code is None:
            raise UntranslatableError(text)
        return code

    def _arithmetic(self, parts, operands):
        kind, flush = parts[-1], "ftz" in parts
        name = ".".join(part for part in parts[:-1] if part != "ftz")
        known = _REAL if kind == "f32" else _WHOLE
        if name not in known or (kind != "f32" and flush):
            return None
        sources = [self._read(operand, kind) for operand in operands[1:]]
        if flush:
            sources = [f"flushed({source})" for source in sources]
        bits = _bits(kind)
        values = dict(zip("abc", sources, strict=False), bits=bits)
        if name in ("mul.hi", "mul.wide"):
            values["wide"] = _type(f"{kind[0]}{2 * bits}")
        value = known[name].format(**values)
        if kind == "f32":
            value = f"canonical({f'flushed({value})' if flush else value})"
        if name == "neg" and kind == "f32":
            value = f"-{sources[0]}"  # a NaN keeps its bits
        target = f"{kind[0]}{2 * bits}" if name == "mul.wide" else kind
        return self._write(operands[0], target, value)

    def _do_not(self, parts, operands):
        if parts[1] != "pred":
            return None
        return self._write(operands[0], "pred", f"!{self._read(operands[1], 'pred')}")

    def _do_ret(self, parts, operands):
        return "thread->waits = DONE; return;"

    def _do_bra(self, parts, operands):
        return f"goto {operands[0].replace('$', '')};"

    def _do_mov(self, parts, operands):
        kind = f"b{_bits(parts[-1])}"
        return self._write(operands[0], kind, self._read(operands[1], kind))

    _do_cvta = _do_mov

    def _do_setp(self, parts, operands):
        if len(parts) != 3 or parts[1] not in _COMPARISONS:
            return None
        a, b = (self._read(operand, parts[2]) for operand in operands[1:])
        return self._write(operands[0], "pred", f"{a} {_COMPARISONS[parts[1]]} {b}")

    def _do_selp(self, parts, operands):
        kind = f"b{_bits(parts[-1])}"
        yes, no = (self._read(operand, kind) for operand in operands[1:3])
        return self._write(operands[0], kind, f"{self._register(operands[3])} ? {yes} : {no}")

    def _do_shl(self, parts, operands):
        a, by = self._read(operands[1], parts[1]), self._read(operands[2], "u32")
        value = f"{by} < {_bits(parts[1])} ? {a} << {by} : 0"
        return self._write(operands[0], parts[1], value)

    def _do_shr(self, parts, operands):
        a, by = self._read(operands[1], parts[1]), self._read(operands[2], "u32")
        most = _bits(parts[1]) - 1
        beyond = f"{a} < 0 ? -1 : 0" if parts[1][0] == "s" else "0"
        return self._write(operands[0], parts[1], f"{by} <= {most} ? {a} >> {by} : ({beyond})")

    def _do_bfi(self, parts, operands):
        field, into = (self._read(operand, parts[1]) for operand in operands[1:3])
        place, length = (self._read(operand, "u32") for operand in operands[3:])
        value = f"inserted({field}, {into}, {place}, {length}, {_bits(parts[1])})"
        return self._write(operands[0], parts[1], value)

    def _do_cvt(self, parts, operands):
        sources = operands[1:]
        if parts[1] == "rzi" and parts[-2:] == ["s32", "f32"]:
            return self._write(operands[0], "s32", f"truncated({self._read(sources[0], 'f32')})")
        if parts[1:] in (["rn", "f16x2", "f32"], ["rn", "bf16x2", "f32"]):
            narrow = "half_bits" if parts[2] == "f16x2" else "bfloat_bits"
            high, low = (f"(uint32_t){narrow}({self._read(x, 'f32')})" for x in sources)
            return self._write(operands[0], "b32", f"{high} << 16 | {low}")
        if parts[1] == "rn" and parts[2] == "f32" and parts[3] in ("s32", "u32"):
            return self._write(operands[0], "f32", f"(float){self._read(sources[0], parts[3])}")
        if len(parts) == 3 and all(part[0] in "us" for part in parts[1:]):
            value = f"({_type(parts[1])}){self._read(sources[0], parts[2])}"
            return self._write(operands[0], parts[1], value)
        return None

    # --- memory -----------------------------------------------------------------------------

    def _do_ld(self, parts, operands):
        kind = f"b{_bits(parts[-1])}"
        if parts[1] == "param":
            place = list(self.parameters).index(operands[1][1:-1])
            return self._write(operands[0], kind, f"parameter[{place}]")
        if parts[1] not in ("global", "shared"):
            return None
        targets = operands[0].strip("{}").replace(",", " ").split()
        size = len(targets) * _bits(kind) // 8
        where = f"reach_{parts[1]}(thread, {self._address(operands[1])}, {size}, 0)"
        reads = "".join(self._write(target, kind, f"from[{i}]") for i, target in enumerate(targets))
        return f"{{ const {_type(kind)} *from = {where}; {reads} }}"

    def _do_st(self, parts, operands):
        kind = f"b{_bits(parts[-1])}"
        if parts[1] not in ("global", "shared"):
            return None
        sources = operands[1].strip("{}").replace(",", " ").split()
        size = len(sources) * _bits(kind) // 8
        where = f"reach_{parts[1]}(thread, {self._address(operands[0])}, {size}, 1)"
        writes = "".join(
            f"to[{i}] = {self._read(source, kind)};" for i, source in enumerate(sources)
        )
        return f"{{ {_type(kind)} *to = {where}; {writes} }}"

    def _do_atom(self, parts, operands):
        if parts[1] not in ("global", "shared") or parts[2] != "add":
            return None
        kind = parts[3]
        where = f"reach_{parts[1]}(thread, {self._address(operands[1])}, {_bits(kind) // 8}, 1)"
        old = self._write(operands[0], kind, "*to")
        return f"{{ {_type(kind)} *to = {where}; {old} *to += {self._read(operands[2], kind)}; }}"

    # --- where threads meet -----------------------------------------------------------------

    def _meet(self, kind):
        self.meetings += 1
        label = f"meeting_{self.meetings}"
        return f"thread->at = &&{label}; thread->waits = {kind}; return; {label}: ;"

    def _do_bar(self, parts, operands):
        return self._meet("FOR_BLOCK") if operands == ["0"] else None

    def _do_shfl(self, parts, operands):
        if parts[1:] != ["sync", "bfly", "b32"]:
            return None
        target = operands[0].split("|")[0]
        value, lane, clamp, members = (self._read(operand, "b32") for operand in operands[1:])
        post = f"post(thread, {value}, {clamp}, {members});"
        return post + self._meet("FOR_WARP") + self._write(target, "b32", f"fetch(thread, {lane})")


def _field(name):
    """Return the name of a register in C: %r12 and a scope's own `p` are two."""
    return f"r_{name[1:]}" if name.startswith("%") else f"own_{name}"


def _bits(kind):
    return 32 if kind == "pred" else int(kind[1:])


def _word(bits):
    return f"uint{bits}_t"


def _type(kind):
    """Return the C type of a PTX type of whole numbers, bits or predicates, which are 0 or 1."""
    if kind == "pred":
        return "uint32_t"
    if kind[0] not in "bsu":
        raise UntranslatableError(f"type {kind}")
    if kind[1:] == "128":
        return "unsigned __int128" if kind[0] == "u" else "__int128"
    return f"{'' if kind[0] == 's' else 'u'}int{kind[1:]}_t"
