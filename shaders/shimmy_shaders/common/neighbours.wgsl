// Of one number of each of 8, or 4, neighbouring invocations, which all get it; neighbours are those of equal
// li / 8, or li / 4. All ${workgroup} invocations take part; ${subgroup} lanes make a subgroup, 0: there are none.

# if subgroup < 8
var<workgroup> neighbours_u: array<u32, ${workgroup}>;
var<workgroup> neighbours_i: array<i32, ${workgroup}>;
# endif

fn neighbours_max_8(value: u32, li: u32) -> u32 {
# if subgroup >= 8
    var most = value;
# for distance in [1, 2, 4]
    most = max(most, subgroupShuffleXor(most, ${distance}u));
# endfor
# else
    neighbours_u[li] = value;
    workgroupBarrier();
    let first = li / 8u * 8u;
    var most = 0u;
    for (var i = 0u; i < 8u; i++) { most = max(most, neighbours_u[first + i]); }
    workgroupBarrier();
# endif
    return most;
}

# for count in [4, 8]
fn neighbours_sum_${count}(value: i32, li: u32) -> i32 {
# if subgroup >= 8
    var sum = value;
# for distance in [1, 2, 4]
# if distance < count
    sum += subgroupShuffleXor(sum, ${distance}u);
# endif
# endfor
# else
    neighbours_i[li] = value;
    workgroupBarrier();
    let first = li / ${count}u * ${count}u;
    var sum = 0;
    for (var i = 0u; i < ${count}u; i++) { sum += neighbours_i[first + i]; }
    workgroupBarrier();
# endif
    return sum;
}
# endfor
