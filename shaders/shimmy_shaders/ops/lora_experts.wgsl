// y += what adapters add to products of experts: workgroup_id.x is a slot of a row, y the row. Each expert has a record
// for each adapter; first A x, rank by rank, ${lanes} neighbouring invocations for one, then B of it.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> chosen: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;
@group(0) @binding(4) var<storage, read> lora: array<vec4<u32>>;

# include "shimmy/common/step.wgsl"
# include "shimmy/common/lora.wgsl"
# include "shimmy/common/experts.wgsl"

# set ranks = workgroup // lanes
var<workgroup> sums: array<f32, ${workgroup}>;
var<workgroup> middle: array<f32, ${lora.stride}>;

fn x_at(begin: u32, column: u32) -> f32 {
# if columns % 8
    if (column >= ${columns}u) { return 0.0; }
# endif
    return x[begin + column];
}
// Four neighbours of x.
fn quad_at(begin: u32, column: u32) -> vec4<f32> {
    return vec4(
        x_at(begin, column), x_at(begin, column + 1u), x_at(begin, column + 2u), x_at(begin, column + 3u)
    );
}
fn quad_of_middle(at: u32) -> vec4<f32> {
    return vec4(middle[at], middle[at + 1u], middle[at + 2u], middle[at + 3u]);
}
fn added_up(v: vec4<f32>) -> f32 { return (v.x + v.y) + (v.z + v.w); }

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = ${"step_first_output() + " if late}at.y;
    let entries = lora_entries(row);
    if (entries == 0u) { return; }
    let slot = row * ${slots.used}u + at.x;
    let from_x = ${"slot" if slots.own else "slot / %du" % slots.used} * ${columns}u;
    let lane = li % ${lanes}u;
    for (var k = 0u; k < ${lora.most}u; k++) {
        let number = lora_number(entries, k);
        if (number == 0u) { break; }
        let term = lora_term(number, expert_of(slot));
        // Ranks are padded to whole chunks.
        for (var first = 0u; first < term.b_chunks * 8u; first += ${ranks}u) {
            let rank = first + li / ${lanes}u;
            var products = vec4<f32>();
            if (rank < term.b_chunks * 8u) {
                for (var c = lane; c < term.a_chunks; c += ${lanes}u) {
                    let weight = lora_chunk(term.a, rank, term.a_chunks, c, term.half);
                    products = fma(weight[0], quad_at(from_x, 8u * c), products);
                    products = fma(weight[1], quad_at(from_x, 8u * c + 4u), products);
                }
            }
            sums[li] = added_up(products);
            workgroupBarrier();
            for (var half = ${lanes // 2}u; half > 0u; half /= 2u) {
                if (lane < half) { sums[li] += sums[li + half]; }
                workgroupBarrier();
            }
            if (lane == 0u && rank < term.b_chunks * 8u) { middle[rank] = sums[li]; }
            workgroupBarrier();
        }
        if (term.b != 0u) {
            for (var column = li; column < ${width}u; column += ${workgroup}u) {
                var sum = vec4<f32>();
                for (var c = 0u; c < term.b_chunks; c++) {
                    let weight = lora_chunk(term.b, column, term.b_chunks, c, term.half);
                    sum = fma(weight[0], quad_of_middle(8u * c), sum);
                    sum = fma(weight[1], quad_of_middle(8u * c + 4u), sum);
                }
                let i = slot * ${width}u + column;
                y[i] = fma(lora_factor(entries, k), term.scale * added_up(sum), y[i]);
            }
        }
        workgroupBarrier();
    }
}
