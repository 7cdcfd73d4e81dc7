// Needs a binding `x: array<f32>` and common/reduce.wgsl, which has the parameters `workgroup` and `subgroup`.

# macro rms_factor(width, eps, workgroup)
// 1 / sqrt(mean(x^2) + eps) of the ${width} columns from `start` on, for all invocations of the workgroup.
fn rms_factor(start: u32, li: u32) -> f32 {
    var squares = 0.0;
    for (var i = li; i < ${width}u; i += ${workgroup}u) {
        let v = x[start + i];
        squares = fma(v, v, squares);
    }
    return 1.0 / sqrt(workgroup_sum(squares, li) / ${width}.0 + ${eps});
}
# endmacro
