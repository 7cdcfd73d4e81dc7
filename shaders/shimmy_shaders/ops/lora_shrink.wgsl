// middle = A x for each adapter of a row and each matrix that reads x: workgroup_id.x has some ranks of A, y is the row,
// z the matrix. ${lanes} neighbouring invocations share a rank. If `lora.copied`, x itself where there is only a B.

# set float = "vec4<f32>" if columns % 4 == 0 else "f32"
# set x_at = 0 if norm is none else 1
# if norm is not none
@group(0) @binding(0) var<storage, read> norm: array<${float}>;
# endif
@group(0) @binding(${x_at}) var<storage, read> x: array<${float}>;
@group(0) @binding(${x_at + 1}) var<storage, read_write> middle: array<f32>;
@group(0) @binding(${x_at + 2}) var<storage, read> step: array<u32>;
@group(0) @binding(${x_at + 3}) var<storage, read> lora: array<vec4<u32>>;

# include "shimmy/vec/rows.wgsl"
# include "shimmy/common/lora.wgsl"
var<workgroup> parts: array<f32, ${workgroup}>;

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = source(at.y);
    let entries = lora_entries(row);
    if (entries == 0u) { return; }
    prepare(at.y, li);
    let rank = at.x * ${workgroup // lanes}u + li / ${lanes}u;
    for (var k = 0u; k < step[entries]; k++) {
        let term = lora_term(lora_place(entries, k), at.z);
        // Ranks are padded to whole chunks, and as many as B's columns.
        if (${"" if lora.copied else "term.a == 0u || "}at.x * ${workgroup // lanes}u >= term.b_chunks * 8u) { continue; }
        let to = lora_middle(row, k, at.z) * 4u + rank;
# if lora.copied
        if (term.a == 0u) {
            if (li % ${lanes}u == 0u) { middle[to] = prepared(0u, row, rank / 4u)[rank % 4u]; }
            continue;
        }
# endif
        var sum = vec4<f32>();
        for (var c = li % ${lanes}u; c < ${(columns + 7) // 8}u; c += ${lanes}u) {
            let weight = lora_chunk(term.a, rank, term.a_chunks, c, term.half);
            sum = fma(weight[0], prepared(0u, row, 2u * c), sum);
            sum = fma(weight[1], prepared(0u, row, 2u * c + 1u), sum);
        }
        parts[li] = (sum.x + sum.y) + (sum.z + sum.w);
        workgroupBarrier();
        for (var half = ${lanes // 2}u; half > 0u; half /= 2u) {
            if (li % ${lanes}u < half) { parts[li] += parts[li + half]; }
            workgroupBarrier();
        }
        if (li % ${lanes}u == 0u) { middle[to] = parts[li]; }
        workgroupBarrier();
    }
}
