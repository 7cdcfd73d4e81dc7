// Numbers all the words, from 0 on.
@group(0) @binding(0) var<storage, read_write> words: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    for (var i = lane; i < ${vectors}u; i += 256u) {
        let at = group.x * ${vectors}u + i;
        words[at] = 4u * at + vec4<u32>(0u, 1u, 2u, 3u);
    }
}
