// The ${attrs.used} experts of a row with the largest logits, best first, of equal ones the lower number: their numbers,
// then their weights, softmax over all${", divided by the sum of those chosen" if attrs.normalize}.

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;

# include "shimmy/common/row.wgsl"
# include "shimmy/common/reduce.wgsl"
# set experts = inputs[0].width
var<workgroup> logits: array<f32, ${experts}>;
var<workgroup> numbers: array<u32, ${attrs.used}>;
var<workgroup> weights: array<f32, ${attrs.used}>;

@compute @workgroup_size(${workgroup})
fn main(@builtin(workgroup_id) at: vec3<u32>, @builtin(local_invocation_index) li: u32) {
    let row = at.x;
    if (row >= rows()) { return; }
    var largest = -3.4028234e38;
    for (var i = li; i < ${experts}u; i += ${workgroup}u) {
        logits[i] = x[input0(row) + i];
        largest = max(largest, logits[i]);
    }
    let most = workgroup_max(largest, li);
    var sum = 0.0;
    for (var i = li; i < ${experts}u; i += ${workgroup}u) { sum += exp(logits[i] - most); }
    let total = workgroup_sum(sum, li);
    // An expert's place is the number of those that are better.
    for (var i = li; i < ${experts}u; i += ${workgroup}u) {
        let own = logits[i];
        var place = 0u;
        for (var j = 0u; j < ${experts}u; j++) { place += u32(logits[j] > own || (logits[j] == own && j < i)); }
        if (place < ${attrs.used}u) {
            numbers[place] = i;
            weights[place] = exp(own - most) / total;
        }
    }
    workgroupBarrier();
    for (var k = li; k < ${attrs.used}u; k += ${workgroup}u) {
        var weight = weights[k];
# if attrs.normalize
        var chosen = weights[0];
        for (var j = 1u; j < ${attrs.used}u; j++) { chosen += weights[j]; }
        weight /= chosen;
# endif
        y[result(row) + k] = f32(numbers[k]);
        y[result(row) + ${attrs.used}u + k] = weight * ${attrs.scale};
    }
}
