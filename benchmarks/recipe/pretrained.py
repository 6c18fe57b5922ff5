# Starts from the model of nuclei that comes with the project, whose detector and masks have learned from DSB2018.
_base_ = 'base.py'
load_from = '{{ fileDirname }}/../../weights/nuclei_lite.pth'
