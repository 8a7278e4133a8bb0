/* A stand-in for libedgetpu.so.1 without hardware: a TFLite external delegate that claims the operator
 * "edgetpu-custom-op". Every output byte is an input byte XOR 0x55, so a test can tell that it ran and on what.
 *
 * The structs are the leading fields of TensorFlow Lite's C API (tensorflow/lite/core/c/common.h), whose layout both
 * ai_edge_litert 2.x and tflite_runtime 2.14 share. Environment:
 *   EDGETPU_STAND_IN_DEVICES    what is plugged in: "usb", "pci", "usb,pci" or "" (default "usb")
 *   EDGETPU_STAND_IN_UNPLUGGED  a path: while it exists, opening and invoking fail
 *   EDGETPU_STAND_IN_LOG        a path: "key=value" of every option, one line a delegate, is appended to it
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, FAILED = 1 };
#define OPERATOR "edgetpu-custom-op"

typedef struct { int size; int data[]; } IntArray;
typedef struct Delegate Delegate;
typedef struct Context Context;

typedef struct {
    int type;
    void *data;
    IntArray *dims;
    struct { float scale; int32_t zero_point; } params;
    int allocation_type;
    size_t bytes;
    const void *allocation;
    const char *name;
    Delegate *delegate;
    int buffer_handle;
    bool data_is_stale, is_variable;
    struct { int type; void *params; } quantization;
    void *sparsity;
    const IntArray *dims_signature;
} Tensor;

typedef struct {
    IntArray *inputs, *outputs, *intermediates, *temporaries;
    void *user_data, *builtin_data;
    const void *custom_initial_data;
    int custom_initial_data_size;
    Delegate *delegate;
    bool might_have_side_effect;
} Node;

typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profiling_string)(const Context *, const Node *);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *external, *async_kernel;
    uint64_t inplace_operator;
} Registration;

struct Context {
    size_t tensors_size;
    int (*GetExecutionPlan)(Context *, IntArray **);
    Tensor *tensors;
    void *impl;
    int (*ResizeTensor)(Context *, Tensor *, IntArray *);
    void (*ReportError)(Context *, const char *, ...);
    int (*AddTensors)(Context *, int, int *);
    int (*GetNodeAndRegistration)(Context *, int, Node **, Registration **);
    int (*ReplaceNodeSubsetsWithDelegateKernels)(Context *, Registration, const IntArray *, Delegate *);
};

struct Delegate {
    void *data;
    int (*Prepare)(Context *, Delegate *);
    int (*CopyFromBufferHandle)(Context *, Delegate *, int, Tensor *);
    int (*CopyToBufferHandle)(Context *, Delegate *, int, Tensor *);
    void (*FreeBufferHandle)(Context *, Delegate *, int *);
    int64_t flags;
    void *opaque;
};

static bool unplugged(void) {
    const char *path = getenv("EDGETPU_STAND_IN_UNPLUGGED");
    return path != NULL && access(path, F_OK) == 0;
}

static void *kernel_init(Context *context, const char *buffer, size_t length) {
    (void)context, (void)buffer, (void)length;
    return NULL;
}

static void kernel_free(Context *context, void *data) { (void)context, (void)data; }

static int kernel_prepare(Context *context, Node *node) {
    (void)context, (void)node;
    return OK;
}

static int kernel_invoke(Context *context, Node *node) {
    if (unplugged()) {
        context->ReportError(context, "stand-in: the Edge TPU was unplugged");
        return FAILED;
    }
    const Tensor *input = &context->tensors[node->inputs->data[0]];
    if (input->data == NULL || input->bytes == 0) return FAILED;
    const uint8_t *from = input->data;
    for (int number = 0; number < node->outputs->size; number++) {
        const Tensor *output = &context->tensors[node->outputs->data[number]];
        uint8_t *to = output->data;
        for (size_t at = 0; at < output->bytes; at++) to[at] = from[at % input->bytes] ^ 0x55;
    }
    return OK;
}

static int claim(Context *context, Delegate *delegate) {
    IntArray *plan;
    if (context->GetExecutionPlan(context, &plan) != OK) return FAILED;
    size_t bytes = sizeof(int) * (size_t)(1 + plan->size);
    IntArray *all = malloc(bytes), *claimed = malloc(bytes);
    if (all == NULL || claimed == NULL) return FAILED;
    memcpy(all, plan, bytes); /* the plan's memory is used again by the calls below */
    claimed->size = 0;
    for (int at = 0; at < all->size; at++) {
        Node *node;
        Registration *registration;
        if (context->GetNodeAndRegistration(context, all->data[at], &node, &registration) != OK) return FAILED;
        if (registration->custom_name != NULL && strcmp(registration->custom_name, OPERATOR) == 0)
            claimed->data[claimed->size++] = all->data[at];
    }
    Registration kernel = {
        .init = kernel_init, .free = kernel_free, .prepare = kernel_prepare, .invoke = kernel_invoke,
        .custom_name = "EdgeTpuStandIn", .version = 1,
    };
    int status = OK;
    if (claimed->size > 0)
        status = context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, claimed, delegate);
    free(all);
    free(claimed);
    return status;
}

static bool plugged(const char *device) { /* "usb", "pci", "usb:0", ":1" or "" */
    const char *present = getenv("EDGETPU_STAND_IN_DEVICES");
    if (present == NULL) present = "usb";
    char kind[8] = "";
    snprintf(kind, sizeof kind, "%.*s", (int)strcspn(device, ":"), device);
    return !unplugged() && present[0] != '\0' && strstr(present, kind) != NULL;
}

__attribute__((visibility("default"))) Delegate *tflite_plugin_create_delegate(
    char **keys, char **values, size_t count, void (*report_error)(const char *)) {
    const char *log_path = getenv("EDGETPU_STAND_IN_LOG");
    FILE *log = log_path == NULL ? NULL : fopen(log_path, "a");
    const char *device = "";
    for (size_t at = 0; at < count; at++) {
        if (strcmp(keys[at], "device") == 0) device = values[at];
        if (log != NULL) fprintf(log, "%s=%s ", keys[at], values[at]);
    }
    if (log != NULL) {
        fprintf(log, "\n");
        fclose(log);
    }
    if (!plugged(device)) {
        if (report_error != NULL) report_error("stand-in: no Edge TPU of this kind is plugged in");
        return NULL;
    }
    Delegate *delegate = calloc(1, sizeof *delegate);
    if (delegate == NULL) return NULL;
    delegate->Prepare = claim;
    delegate->flags = 1; /* kTfLiteDelegateFlagsAllowDynamicTensors */
    return delegate;
}

__attribute__((visibility("default"))) void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
