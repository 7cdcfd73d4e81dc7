// What the workgroups of attention_piece left of a head and row, added by one workgroup. Invocations share it out by
// number, and each adds its own in order, so the order is the same whatever other rows there are.
@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
# include "shimmy/common/step.wgsl"
# include "shimmy/common/context.wgsl"
# include "shimmy/common/pieces.wgsl"
# include "shimmy/common/reduce.wgsl"

# set groups = workgroup // v_chunks
var<workgroup> sums: array<vec4<f32>, ${groups * v_chunks}>;
var<workgroup> weights: array<f32, ${groups}>;

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let head = wg.x;
    let row = wg.y;
    let pieces = pieces_of(step_position(row));
    let count = (pieces.end - pieces.first + pieces.each - 1u) / pieces.each;
    let first = (row * ${heads}u + head) * ${splits * (v_chunks + 1)}u;

    var top = UNSEEN;
    for (var i = li; i < count; i += ${workgroup}u) {
        top = max(top, partials[first + i * ${v_chunks + 1}u + ${v_chunks}u].x);
    }
    top = workgroup_max(top, li);

    let c = li % ${v_chunks}u;
    let group = li / ${v_chunks}u;
    var sum = vec4(0.0);
    var weight = 0.0;
    if (group < ${groups}u) {
        for (var i = group; i < count; i += ${groups}u) {
            let at = first + i * ${v_chunks + 1}u;
            let found = partials[at + ${v_chunks}u];
            let share = exp(found.x - top);
            sum += share * partials[at + c];
            weight += share * found.y;
        }
        sums[li] = sum;
        if (c == 0u) { weights[group] = weight; }
    }
    workgroupBarrier();

    if (li < ${v_chunks}u) {
# for i in range(1, groups)
        sum += sums[${i * v_chunks}u + li];
        weight += weights[${i}];
# endfor
        let result = sum / weight;
        let to = (row * ${heads}u + head) * ${v_dim}u + 4u * li;
# for i in range(4)
# if v_dim % 4
        if (4u * li + ${i}u < ${v_dim}u) { y[to + ${i}u] = result[${i}]; }
# else
        y[to + ${i}u] = result[${i}];
# endif
# endfor
    }
}
