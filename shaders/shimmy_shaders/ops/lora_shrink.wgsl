// middle = A x for each adapter of a row and each matrix that reads x: workgroup_id.x has some ranks of A, y is the row,
// z the matrix. ${lanes} neighbouring invocations share a rank. If `lora.copied`, x itself where there is only a B.

# set float = "vec4<f32>" if columns % 4 == 0 else "f32"
# set x_at = 0 if norm is none else 1
# set ranks = workgroup // lanes
# set parts = lanes // subgroup if subgroup and subgroup <= lanes else lanes
# if norm is not none
@group(0) @binding(0) var<storage, read> norm: array<${float}>;
# endif
@group(0) @binding(${x_at}) var<storage, read> x: array<${float}>;
@group(0) @binding(${x_at + 1}) var<storage, read_write> middle: array<f32>;
@group(0) @binding(${x_at + 2}) var<storage, read> step: array<u32>;
@group(0) @binding(${x_at + 3}) var<storage, read> lora: array<vec4<u32>>;

# include "shimmy/vec/rows.wgsl"
# include "shimmy/common/lora.wgsl"
// Of each rank's ${parts} parts: their products, and the squares of x.
var<workgroup> sums: array<vec2<f32>, ${ranks * parts}>;

fn normed(row: u32, quad: u32) -> vec4<f32> {
    return quad_of_x(row, quad)${" * quad_of_norm(quad)" if norm is not none};
}

fn added_up(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = source(at.y);
    let entries = lora_entries(row);
    if (entries == 0u) { return; }
    let lane = li % ${lanes}u;
    let rank = at.x * ${ranks}u + li / ${lanes}u;
    for (var k = 0u; k < ${lora.most}u; k++) {
        let number = lora_number(entries, k);
        if (number == 0u) { break; }
        let term = lora_term(number, at.z);
        // Ranks are padded to whole chunks, and as many as B's columns.
        if (${"" if lora.copied else "term.a == 0u || "}at.x * ${ranks}u >= term.b_chunks * 8u) { continue; }
        var products = vec4<f32>();
        var squares = vec4<f32>();
        for (var c = lane; c < ${(columns + 7) // 8}u; c += ${lanes}u) {
# if norm is not none
            for (var quad = 2u * c; quad < 2u * c + 2u; quad++) {
                squares = fma(quad_of_x(row, quad), quad_of_x(row, quad), squares);
            }
# endif
            if (term.a != 0u) {
                let weight = lora_chunk(term.a, rank, term.a_chunks, c, term.half);
                products = fma(weight[0], normed(row, 2u * c), products);
                products = fma(weight[1], normed(row, 2u * c + 1u), products);
            }
        }
        var sum = vec2<f32>(added_up(products), added_up(squares));
# if parts < lanes
        sum = vec2<f32>(subgroupAdd(sum.x), subgroupAdd(sum.y));
        if (li % ${subgroup}u == 0u) { sums[li / ${subgroup}u] = sum; }
        workgroupBarrier();
# else
        sums[li] = sum;
        workgroupBarrier();
        for (var half = ${lanes // 2}u; half > 0u; half /= 2u) {
            if (lane < half) { sums[li] += sums[li + half]; }
            workgroupBarrier();
        }
# endif
        if (lane == 0u) {
            let first = li / ${lanes}u * ${parts}u;
            var all = sums[first];
# if parts < lanes
            for (var part = 1u; part < ${parts}u; part++) { all += sums[first + part]; }
# endif
            if (term.a == 0u) { all.x = normed(row, rank / 4u)[rank % 4u]; }
# if norm is not none
            all.x *= 1.0 / sqrt(all.y / ${columns}.0 + ${norm});
# endif
            middle[lora_middle(row, k, at.z) * 4u + rank] = all.x;
        }
        workgroupBarrier();
    }
}
