// Needs a binding `x: array<f32>` and common/reduce.wgsl, which has the parameters `workgroup` and `subgroup`.

# macro statistics(norm, width, workgroup)
// Of the ${width} numbers of x from `start` on, for all invocations of the workgroup: what is taken off them, and what
// they are multiplied with then.
fn statistics(start: u32, li: u32) -> vec2<f32> {
# if norm.centred
    var sum = 0.0;
    for (var i = li; i < ${width}u; i += ${workgroup}u) { sum += x[start + i]; }
    let mean = workgroup_sum(sum, li) / ${width}.0;
# else
    let mean = 0.0;
# endif
    var squares = 0.0;
    for (var i = li; i < ${width}u; i += ${workgroup}u) {
        let v = x[start + i]${" - mean" if norm.centred};
        squares = fma(v, v, squares);
    }
    return vec2<f32>(mean, 1.0 / sqrt(workgroup_sum(squares, li) / ${width}.0 + ${norm.eps}));
}
# endmacro
