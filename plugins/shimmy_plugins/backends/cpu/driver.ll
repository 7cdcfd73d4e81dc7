; Runs a call table on one of several threads, and keeps the threads together.
;
; A call is four words: kernel, argument block, 1 if it ends a region, and a number by which its
; kernel's threads claim work. The calls of a region may run side by side; the next region needs all
; of this one to be done.
;
; One word holds the number of the region in its upper 48 bits (they are counted on from step to step)
; and how many threads are inside it in the lower 16. Who has left a region has found nothing more to
; claim, so when the last thread inside leaves, the region is done and the number moves on. Nobody
; waits for a thread that has not come: its core may be busy with another program; it goes on with
; the region that is current when it comes.
;
; Threads spin while they wait, because a region is shorter than a system call; but only for a while,
; then they yield, because the missing thread may be waiting for this very core.
;
; PAUSE and SPINS are replaced before use.

%control = type {
  i64,        ; 0: region and threads inside
  [7 x i64],  ; it has a cache line of its own
  ptr         ; 2: the system's function that yields the core
}

define void @run(ptr %calls, i64 %begin, i64 %end, i64 %first, i64 %thread, i64 %threads, ptr %control) nounwind {
entry:
  br label %next
next:
  %i = phi i64 [ %begin, %entry ], [ %after, %skip ], [ %after.done, %left ]
  %region = phi i64 [ %first, %entry ], [ %region.skip, %skip ], [ %region.done, %left ]
  %more = icmp ult i64 %i, %end
  br i1 %more, label %arrive, label %done

arrive:
  %inside = call i1 @enter(i64 %region, ptr %control)
  br i1 %inside, label %work, label %late
late:  ; the others have done it already
  %after = call i64 @region_end(ptr %calls, i64 %i)
  br label %skip
skip:
  %region.skip = add i64 %region, 1
  br label %next

work:
  %after.done = call i64 @region_end(ptr %calls, i64 %i)
  br label %call
call:
  %c = phi i64 [ %i, %work ], [ %c.next, %call ]
  %kernel.at = getelementptr [4 x i64], ptr %calls, i64 %c, i64 0
  %fields.at = getelementptr [4 x i64], ptr %calls, i64 %c, i64 1
  %claimed.at = getelementptr [4 x i64], ptr %calls, i64 %c, i64 3
  %kernel = load ptr, ptr %kernel.at
  %fields = load ptr, ptr %fields.at
  call void %kernel(ptr %fields, i64 %thread, i64 %threads, ptr %claimed.at)
  %c.next = add i64 %c, 1
  %again = icmp ult i64 %c.next, %after.done
  br i1 %again, label %call, label %leave
leave:
  call void @leave(i64 %region, ptr %control)
  br label %left
left:
  %region.done = add i64 %region, 1
  br label %next

done:
  ret void
}

; The index after the last call of the region that %i is in.
define internal i64 @region_end(ptr %calls, i64 %i) nounwind {
entry:
  br label %test
test:
  %c = phi i64 [ %i, %entry ], [ %next, %test ]
  %ends.at = getelementptr [4 x i64], ptr %calls, i64 %c, i64 2
  %ends = load i64, ptr %ends.at
  %next = add i64 %c, 1
  %last = icmp ne i64 %ends, 0
  br i1 %last, label %found, label %test
found:
  ret i64 %next
}

; Go into a region; false if it is over.
define internal i1 @enter(i64 %region, ptr %control) nounwind {
entry:
  br label %try
try:
  %state = load atomic i64, ptr %control acquire, align 8
  %current = lshr i64 %state, 16
  %open = icmp eq i64 %current, %region
  br i1 %open, label %count, label %over
count:
  %entered = add i64 %state, 1
  %result = cmpxchg ptr %control, i64 %state, i64 %entered acq_rel acquire
  %success = extractvalue { i64, i1 } %result, 1
  br i1 %success, label %in, label %try
in:
  ret i1 true
over:
  ret i1 false
}

; Go out of a region, and wait until all have.
define internal void @leave(i64 %region, ptr %control) nounwind {
entry:
  %yield.at = getelementptr %control, ptr %control, i64 0, i32 2
  %empty = shl i64 %region, 16
  %before = atomicrmw sub ptr %control, i64 1 acq_rel
  %inside = sub i64 %before, %empty
  %last = icmp eq i64 %inside, 1
  br i1 %last, label %close, label %wait
close:  ; this fails if someone came late: he will close it then
  %following = add i64 %region, 1
  %opened = shl i64 %following, 16
  %result = cmpxchg ptr %control, i64 %empty, i64 %opened acq_rel acquire
  br label %wait
wait:
  %spins = phi i64 [ 0, %entry ], [ 0, %close ], [ %spins.next, %spin ], [ %spins, %yield ]
  %state = load atomic i64, ptr %control acquire, align 8
  %current = lshr i64 %state, 16
  %waiting = icmp eq i64 %current, %region
  br i1 %waiting, label %pause, label %over
pause:
  %patient = icmp ult i64 %spins, SPINS
  br i1 %patient, label %spin, label %yield
spin:
  PAUSE
  %spins.next = add i64 %spins, 1
  br label %wait
yield:
  %yield.function = load ptr, ptr %yield.at
  %ignored = call i32 %yield.function()
  br label %wait
over:
  ret void
}

declare void @llvm.x86.sse2.pause()
declare void @llvm.aarch64.hint(i32)
