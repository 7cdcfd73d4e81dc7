// The sum and the largest of one number of each of the ${workgroup} invocations, which all get it. The order of
// additions is fixed. `li` is local_invocation_index; ${subgroup} lanes make a subgroup, 0: there are none.

# if subgroup and subgroup < workgroup
var<workgroup> reduced: array<f32, ${workgroup // subgroup}>;
# elif not subgroup
var<workgroup> reduced: array<f32, ${workgroup}>;
# endif

# for name, of_lanes, of_two in [("workgroup_sum", "subgroupAdd", "a + b"), ("workgroup_max", "subgroupMax", "max(a, b)")]
fn ${name}_of_two(a: f32, b: f32) -> f32 { return ${of_two}; }
fn ${name}(value: f32, li: u32) -> f32 {
# if not subgroup
    reduced[li] = value;
    workgroupBarrier();
# set half = namespace(size=workgroup // 2)
# for _ in range(12)
# if half.size > 0
    if (li < ${half.size}u) { reduced[li] = ${name}_of_two(reduced[li], reduced[li + ${half.size}u]); }
    workgroupBarrier();
# set half.size = half.size // 2
# endif
# endfor
    let all = reduced[0];
    workgroupBarrier();
    return all;
# elif subgroup >= workgroup
    return ${of_lanes}(value);
# else
    let part = ${of_lanes}(value);
    if (li % ${subgroup}u == 0u) { reduced[li / ${subgroup}u] = part; }
    workgroupBarrier();
    var all = reduced[0];
# for i in range(1, workgroup // subgroup)
    all = ${name}_of_two(all, reduced[${i}]);
# endfor
    workgroupBarrier();
    return all;
# endif
}
# endfor
