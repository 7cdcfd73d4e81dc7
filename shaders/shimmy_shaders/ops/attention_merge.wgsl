// What several workgroups of attention_piece left of a head and row, added by one workgroup. Invocations share it out
// by number, and each adds its own in order, so the order is the same whatever other rows there are.
@group(0) @binding(0) var<storage, read> partials: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
# include "shimmy/common/step.wgsl"
# include "shimmy/common/context.wgsl"
# include "shimmy/common/pieces.wgsl"

# set groups = [workgroup // v_chunks, splits] | min
var<workgroup> sums: array<vec4<f32>, ${groups * v_chunks}>;
var<workgroup> marks: array<vec2<f32>, ${groups}>;

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let head = wg.x;
    let row = wg.y;
    let first = (row * ${heads}u + head) * ${splits * (v_chunks + 1)}u;
    let c = li % ${v_chunks}u;
    let group = li / ${v_chunks}u;
    // Begun before it is known whether there are as many: there is room for them.
    var at = first + min(group, ${groups - 1}u) * ${v_chunks + 1}u;
    var four = partials[at + c];
    var mark = partials[at + ${v_chunks}u].xy;

    let count = pieces_of(step_position(row)).workgroups;
    // A row of one workgroup has its result.
    if (count == 1u) { return; }
    var top = UNSEEN;
    var weight = 0.0;
    var sum = vec4(0.0);
    for (var i = group; i < count; i += ${groups}u) {
        let before = top;
        top = max(top, mark.x);
        let kept = exp(before - top);
        let share = exp(mark.x - top);
        sum = kept * sum + share * four;
        weight = kept * weight + share * mark.y;
        if (i + ${groups}u < count) {
            at += ${groups * (v_chunks + 1)}u;
            four = partials[at + c];
            mark = partials[at + ${v_chunks}u].xy;
        }
    }
    if (group < ${groups}u) {
        sums[li] = sum;
        if (c == 0u) { marks[group] = vec2(top, weight); }
    }
    workgroupBarrier();

    if (li < ${v_chunks}u) {
        top = marks[0].x;
# for i in range(1, groups)
        top = max(top, marks[${i}].x);
# endfor
        sum = vec4(0.0);
        weight = 0.0;
# for i in range(groups)
        {
            let share = exp(marks[${i}].x - top);
            sum += share * sums[${i * v_chunks}u + li];
            weight += share * marks[${i}].y;
        }
# endfor
        let result = sum / weight;
        let to = (row * ${heads}u + head) * ${v_dim}u;
# for i in range(4)
        {
            // Partials have the first number of each chunk, then the second.
            let place = 4u * li + ${i}u;
            let dimension = place % ${v_chunks}u * 4u + place / ${v_chunks}u;
# if v_dim % 4
            if (dimension < ${v_dim}u) { y[to + dimension] = result[${i}]; }
# else
            y[to + dimension] = result[${i}];
# endif
        }
# endfor
    }
}
