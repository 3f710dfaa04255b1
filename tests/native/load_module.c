/* Loads a serving module without Python and computes one of its signatures.

   TF_LoadSessionFromSavedModel is the C door to the C++ loader (tensorflow/cc/saved_model/loader.h)
   with which TensorFlow Serving loads modules. Compiled and run by tests/test_serving_native.py:

     cc load_module.c -I TENSORFLOW/include -L TENSORFLOW -l:libtensorflow_cc.so.2
        -l:libtensorflow_framework.so.2 -Wl,-rpath,TENSORFLOW -o load_module
     load_module MODULE INPUT_OPERATION OUTPUT_OPERATION OUTPUTS images BATCH HEIGHT WIDTH FILE
     load_module MODULE INPUT_OPERATION OUTPUT_OPERATION OUTPUTS bytes FILE...

   FILE is raw float32 [batch, height, width, 3] in [0, 1], or encoded images. Prints a line for each
   output: its number, its shape, and its values. The operations are those of the signature, as
   saved_model_cli shows them. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

static char *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail(path, "cannot be opened");
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  char *data = malloc(*size);
  if (data == NULL || fread(data, 1, *size, file) != *size) fail(path, "cannot be read");
  fclose(file);
  return data;
}

static TF_Tensor *images_tensor(char **argv) {
  int64_t dims[4] = {atoll(argv[0]), atoll(argv[1]), atoll(argv[2]), 3};
  size_t size, expected = sizeof(float) * dims[0] * dims[1] * dims[2] * dims[3];
  char *data = read_file(argv[3], &size);
  if (size != expected) fail(argv[3], "has another size than the shape says");
  TF_Tensor *tensor = TF_AllocateTensor(TF_FLOAT, dims, 4, size);
  memcpy(TF_TensorData(tensor), data, size);
  free(data);
  return tensor;
}

static TF_Tensor *bytes_tensor(int count, char **paths) {
  int64_t dims[1] = {count};
  TF_Tensor *tensor = TF_AllocateTensor(TF_STRING, dims, 1, count * sizeof(TF_TString));
  TF_TString *strings = TF_TensorData(tensor);
  for (int i = 0; i < count; i++) {
    size_t size;
    char *data = read_file(paths[i], &size);
    TF_StringInit(&strings[i]);
    TF_StringCopy(&strings[i], data, size);
    free(data);
  }
  return tensor;
}

static void print_tensor(int number, const TF_Tensor *tensor) {
  printf("%d ", number);
  for (int i = 0; i < TF_NumDims(tensor); i++) {
    printf("%s%lld", i ? "x" : "", (long long)TF_Dim(tensor, i));
  }
  const float *values = TF_TensorData(tensor);
  for (int64_t i = 0; i < TF_TensorElementCount(tensor); i++) printf(" %.9g", values[i]);
  printf("\n");
}

int main(int argc, char **argv) {
  if (argc < 7) fail(argv[0], "MODULE INPUT OUTPUT OUTPUTS images|bytes ...");
  int outputs = atoi(argv[4]);
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL,
                                                     status);
  check(status, argv[1]);
  fprintf(stderr, "TensorFlow %s loaded %s\n", TF_Version(), argv[1]);

  TF_Output input = {TF_GraphOperationByName(graph, argv[2]), 0};
  TF_Output *wanted = calloc(outputs, sizeof(TF_Output));
  TF_Tensor **found = calloc(outputs, sizeof(TF_Tensor *));
  for (int i = 0; i < outputs; i++) {
    wanted[i] = (TF_Output){TF_GraphOperationByName(graph, argv[3]), i};
  }
  if (input.oper == NULL || wanted[0].oper == NULL) fail(argv[1], "has no such operation");
  int images = strcmp(argv[5], "images") == 0;
  if (images && argc != 10) fail(argv[5], "takes BATCH HEIGHT WIDTH FILE");
  TF_Tensor *given = images ? images_tensor(argv + 6) : bytes_tensor(argc - 6, argv + 6);
  TF_SessionRun(session, NULL, &input, &given, 1, wanted, found, outputs, NULL, 0, NULL, status);
  check(status, "the signature");
  for (int i = 0; i < outputs; i++) print_tensor(i, found[i]);
  TF_CloseSession(session, status);
  return 0;
}
