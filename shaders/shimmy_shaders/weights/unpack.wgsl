// Blocks of a file, ${block_bytes} bytes for ${unpacking.columns} columns, into the parts of a run layout. An invocation
// takes one block apart.

# set sources = unpacking.sources
@group(0) @binding(0) var<storage, read> blocks: array<u32>;
// How many rows there are in `blocks`, of how many blocks each, and which row of the matrix is the first.
@group(0) @binding(1) var<storage, read> place: array<u32, 3>;
# for source in sources
@group(0) @binding(${2 + loop.index0}) var<storage, read_write> ${source.part.name}: array<u32>;
# endfor

// Four bytes from any byte on; the buffer has more than its blocks, so that nothing is read past it.
fn load(at: u32) -> u32 {
    let low = blocks[at / 4u];
    let high = blocks[at / 4u + 1u];
    let bits = at % 4u * 8u;
    return select((low >> bits) | (high << (32u - bits)), low, bits == 0u);
}
// Four bytes, each of a field of the lowest 4, 8 or 16 bits: of 1, 2 or 4 bits.
fn spread1(bits: u32) -> u32 { return ((bits & 0xfu) * 0x00204081u) & 0x01010101u; }
fn spread2(bits: u32) -> u32 {
    let halves = (bits & 0xfu) | ((bits << 12u) & 0xf0000u);
    return (halves | (halves << 6u)) & 0x03030303u;
}
fn spread4(bits: u32) -> u32 {
    let halves = (bits & 0xffu) | ((bits << 8u) & 0xff0000u);
    return (halves | (halves << 4u)) & 0x0f0f0f0fu;
}
// Two bytes of `a` and of `b`, in turn.
fn pairs(a: u32, b: u32) -> u32 {
    return (a & 0xffu) | ((b & 0xffu) << 8u) | ((a & 0xff00u) << 8u) | ((b & 0xff00u) << 16u);
}

@compute @workgroup_size(${workgroup})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let row_blocks = place[1];
    if (id.x / row_blocks >= place[0]) { return; }
    let at = id.x * ${block_bytes}u;
    let row = place[2] + id.x / row_blocks;
    let block = id.x % row_blocks;
# for step in unpacking.steps
# set a = "v%d" % step.a
# set b = "v%d" % step.b
    let v${loop.index0} = ${{
        "load": "load(at + %du)" % step.number,
        "right": "%s >> %du" % (a, step.number),
        "left": "%s << %du" % (a, step.number),
        "and": "%s & 0x%08xu" % (a, step.number),
        "xor": "%s ^ 0x%08xu" % (a, step.number),
        "or": "%s | %s" % (a, b),
        "spread1": "spread1(%s >> %du)" % (a, step.number),
        "spread2": "spread2(%s >> %du)" % (a, step.number),
        "spread4": "spread4(%s >> %du)" % (a, step.number),
        "pairs": "pairs(%s >> %du, %s >> %du)" % (a, step.number, b, step.number),
    }[step.kind]};
# endfor
# for source in sources
# set name = source.part.name
# for word in source.words
    ${name}[(row * row_blocks + block) * ${source.words | length}u + ${loop.index0}u] = v${word};
# endfor
# if source.units
# set blocks = source.blocks_per_word
# set low = namespace(bits=0)
    // A word has units of ${blocks} blocks; the first of them writes it.
    if (block % ${blocks}u == 0u) {
        var word = 0u;
# for next in range(blocks)
        if (block + ${next}u < row_blocks) {
# for unit in source.units
# set mask = 256 ** unit.bytes - 1
            word |= ((load(at + ${next * block_bytes + unit.at}u) & ${mask}u) ^ ${unit.sign}u) << ${low.bits}u;
# set low.bits = low.bits + 8 * unit.bytes
# endfor
        }
# endfor
        ${name}[row * ((row_blocks + ${blocks - 1}u) / ${blocks}u) + block / ${blocks}u] = word;
    }
# endif
# endfor
}
